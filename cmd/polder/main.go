// Command polder is how people look at Polder, prove that it does what it promises, and try it out. Commands that are
// nouns read; those that are verbs change something. It asks the node's agent over its socket; only "lab" and "check"
// need root.
package main

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/api"
)

// version is set by the linker.
var version = "dev"

func main() {
	e := env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv, environ: os.Environ(),
		terminal: isTerminal(os.Stderr),
		ask: func(ctx context.Context, socket string, r api.Request) (api.Response, error) {
			return api.Call(ctx, socket, r, nil)
		},
	}
	os.Exit(polder(e, os.Args[1:]))
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
