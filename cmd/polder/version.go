package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

func version(e env, args []string) error {
	f := newFlags("version", "", "Prints the version of this program.")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "polder %s %s %s/%s\n", ownVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

// ownVersion is what the linker wrote down: a module's version, or a commit.
func ownVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return info.Main.Version
}
