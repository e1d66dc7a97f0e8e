package main

import (
	"fmt"
	"runtime"
)

func showVersion(e env, args []string) error {
	f := newFlags("version", "", "Prints the version of this program.")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "polder %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
