package datapath

//go:generate go tool bpf2go -go-package datapath -target bpfel -cc clang-14 -strip llvm-strip-14 -type addr -type mac -type endpoint -type remote -type remote_key -type remote_kind -type config -type prefix -type count -type reservation -type frontend -type frontend_key -type frontend_flags -type choice -type backend -type backend_key -type member_key -type member_sets -type source_range_key -type translation -type outcome bpf ../../bpf/polder.c -- -I/usr/include/x86_64-linux-gnu -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter
