package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

// The plugin is started for every verb of every pod: what it links, every start pays for.
func TestBinaryIsThin(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const cni, own = "github.com/containernetworking/cni/pkg/", "github.com/polder-net/polder/"
	for _, path := range strings.Fields(string(out)) {
		if !strings.HasPrefix(path, cni+"types") && path != cni+"version" && path != own+"internal/api" && path != own+"internal/plain" && path != own+"cmd/polder-cni" {
			t.Errorf("it links %s", path)
		}
	}
}

// build builds the plugin as it is shipped.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "polder-cni")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func TestBinaryIsStatic(t *testing.T) {
	f, err := elf.Open(build(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it has a segment %s", p.Type)
		}
	}
}

// The shipped binary, in a mount namespace with a /run of its own, finds the agent at the agent's place.
func TestBinaryAsksTheAgentAtItsSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("POLDER_ROOT_TESTS") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	r := newRig(t)
	write(t, filepath.Join(r.bin, "shipped"), `#!/bin/sh
exec unshare -m --propagation private sh -c 'mount --bind `+filepath.Dir(filepath.Dir(r.socket))+` /run && exec `+build(t)+`'
`, 0o755)
	if want := "/run/polder/agent.sock"; api.Socket != want {
		t.Fatalf("socket is %s, not %s", api.Socket, want)
	}
	r.mustRun("shipped", "ADD", conf("1.1.0"), env{"POLDER_CNI_TEST_SOCKET": ""})
	if asked := r.agent.asked(); asked != "add" {
		t.Errorf("the agent was asked %q", asked)
	}
}
