// Package labtest gives a test a lab of its own, with the programs of this source tree. It is for tests only.
package labtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/lab"
)

// Programs are polder, polder-agent and polder-cni, built from this source tree when they are first needed.
type Programs struct {
	once   sync.Once
	folder string
	err    error
}

// Folder returns the folder of the programs. Close removes it.
func (p *Programs) Folder(t testing.TB) string {
	t.Helper()
	p.once.Do(func() {
		if p.folder, p.err = os.MkdirTemp("", "polder-bin-"); p.err == nil {
			p.err = Build(p.folder)
		}
	})
	if p.err != nil {
		t.Fatalf("build programs: %v", p.err)
	}
	return p.folder
}

// Close removes the folder: TestMain calls it after m.Run.
func (p *Programs) Close() error {
	if p.folder == "" {
		return nil
	}
	return os.RemoveAll(p.folder)
}

// Build builds the programs of this source tree into a folder.
func Build(folder string, flags ...string) error {
	module, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find module: %w", err)
	}
	args := append([]string{"build", "-o", folder + "/"}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/polder", "./cmd/polder-agent", "./cmd/polder-cni")...)
	cmd.Dir = filepath.Dir(strings.TrimSpace(string(module)))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// State returns a path for a lab's state folder, which is gone when the test ends, and the lab in it with it.
func State(t testing.TB) string {
	t.Helper()
	above, err := os.MkdirTemp("", "polder-lab-")
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(above, "lab")
	t.Cleanup(func() {
		if _, err := lab.Down(state); err != nil {
			t.Errorf("take lab down: %v", err)
		}
		if err := os.Remove(above); err != nil { // not RemoveAll: nothing may be left
			t.Errorf("the lab left files behind: %v", err)
		}
	})
	return state
}

// Up builds a lab, which is taken down when the test ends. Without root the test is skipped. Options.State and
// Options.Bin are set here; when the test fails, it shows the last lines of all agents.
func Up(t testing.TB, p *Programs, o lab.Options) *lab.Cluster {
	t.Helper()
	testnet.RequireRoot(t)
	o.Bin, o.State = p.Folder(t), State(t)
	c, err := lab.Up(context.Background(), o)
	if err != nil {
		t.Fatalf("lab up: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range c.Nodes() {
				t.Logf("%s:\n%s", n.LogPath(), n.LastLog(30))
			}
		}
		if err := c.Down(); err != nil {
			t.Errorf("lab down: %v", err)
		}
	})
	return c
}
