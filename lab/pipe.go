package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Pipe starts a program in the place and returns its standard input and output. What it writes to standard error goes
// to stderr. Closing ends its input, and it when that does not.
func (p Place) Pipe(ctx context.Context, stderr io.Writer, name string, args ...string) (io.ReadWriteCloser, error) {
	cmd := p.Command(ctx, name, args...)
	cmd.Cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", name, p.Name, err)
	}
	return &pipe{Reader: out, WriteCloser: in, cmd: cmd}, nil
}

type pipe struct {
	io.Reader
	io.WriteCloser
	cmd  *Cmd
	once sync.Once
	err  error
}

// Close may be called several times; it returns when the program has ended.
func (p *pipe) Close() error {
	p.once.Do(func() {
		kill := time.AfterFunc(2*time.Second, func() { p.cmd.Process.Kill() })
		defer kill.Stop()
		p.err = errors.Join(p.WriteCloser.Close(), p.cmd.Wait())
	})
	return p.err
}
