// Command image writes Polder's container image as a docker-archive, without a container engine. The image holds the
// given programs at its root and nothing else: the first one is its entry point. The same programs give the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	out := flag.String("o", "dist/polder.tar", "write the archive to this `file`")
	tag := flag.String("tag", "localhost/polder:dev", "the image's `name`")
	arch := flag.String("arch", runtime.GOARCH, "what the programs are built for, in Go's `words`")
	flag.Parse()
	if err := run(*out, *tag, *arch, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: image %s\n", *out, *tag)
}

func run(out, tag, arch string, programs []string) error {
	if len(programs) == 0 {
		return fmt.Errorf("write %s: name the programs to put into it", out)
	}
	layer, err := makeLayer(programs)
	if err != nil {
		return err
	}
	archive, err := makeArchive(layer, tag, arch, "/"+filepath.Base(programs[0]))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	tmp := out + ".tmp"
	if err := os.WriteFile(tmp, archive, 0o644); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	if err := os.Rename(tmp, out); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}
