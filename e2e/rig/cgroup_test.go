package rig

import (
	"reflect"
	"testing"
)

func TestTreesAreReadFromTheMounts(t *testing.T) {
	for name, c := range map[string]struct {
		mountinfo string
		want      []hierarchy
	}{
		"version 1 with a version 2 tree beside it": {
			`25 24 0:22 / /proc rw,nosuid - proc proc rw
30 29 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/a,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw,nsdelegate`,
			[]hierarchy{
				{"/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"},
				{"/sys/fs/cgroup/systemd", "cgroup", "none,name=systemd"},
				{"/sys/fs/cgroup/unified", "cgroup2", ""},
			},
		},
		"version 2 alone, mounted twice": {
			`30 29 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
31 29 0:26 / /mnt rw - cgroup2 cgroup2 rw`,
			[]hierarchy{{"/sys/fs/cgroup", "cgroup2", ""}},
		},
	} {
		if got := hierarchies(c.mountinfo); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
