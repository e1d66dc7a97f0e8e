package lab_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// polder returns the command line's program with arguments, in a process group of its own.
func polder(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(programs.Folder(t), "polder"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func TestDownLeavesNothingOfALabWithPods(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 3, Racks: 2})
	for _, name := range []string{"one", "two", "three"} {
		if _, err := c.CreatePod(context.Background(), lab.PodOptions{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	tr := tracesOf(t, c.State())
	if len(tr.processes) < 10 { // fabric, three nodes with an agent each, three pods
		t.Fatalf("the lab has %d processes", len(tr.processes))
	}
	if len(tr.left()) == 0 {
		t.Fatal("a lab that is up shows nowhere")
	}
	if err := c.Down(); err != nil {
		t.Fatal(err)
	}
	tr.mustBeGone(t)
	if was, err := lab.Down(c.State()); was || err != nil {
		t.Errorf("down twice says %v, %v", was, err)
	}
}

func TestDownLeavesNothingOfALabThatWasKilledWhileItWasBuilt(t *testing.T) {
	testnet.RequireRoot(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	state := labtest.State(t)
	for range 12 {
		up := polder(t, "lab", "up", "--state", state)
		if err := up.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		up.Process.Kill()
		up.Wait()
		tr := tracesOf(t, state)
		if out, err := polder(t, "lab", "down", "--state", state).CombinedOutput(); err != nil {
			t.Fatalf("lab down: %v\n%s", err, out)
		}
		tr.mustBeGone(t)
	}
}

func TestUpClearsTheRemainsOfAKilledOne(t *testing.T) {
	testnet.RequireRoot(t)
	state := labtest.State(t)
	up := polder(t, "lab", "up", "--state", state)
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(readFile(filepath.Join(state, "lab.json")), `"group": "/`) {
		time.Sleep(time.Millisecond)
	}
	up.Process.Kill()
	up.Wait()
	tr := tracesOf(t, state)
	c, err := lab.Up(context.Background(), lab.Options{Nodes: 1, State: state, Bin: programs.Folder(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Down(); err != nil {
		t.Fatal(err)
	}
	tr.mustBeGone(t)
}

func TestSignalsEndUpWithNothingLeft(t *testing.T) {
	testnet.RequireRoot(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) {
			state := labtest.State(t)
			up := polder(t, "lab", "up", "--state", state, "--agent-arg=--nonsense") // never gets ready
			var stderr bytes.Buffer
			up.Stderr = &stderr
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			for readFile(filepath.Join(state, "nodes/node-3/agent.json")) == "" {
				time.Sleep(time.Millisecond)
			}
			tr := tracesOf(t, state)
			up.Process.Signal(signal)
			if err := up.Wait(); err == nil {
				t.Error("up succeeded")
			}
			tr.mustBeGone(t)
		})
	}
}

func TestAnAgentThatCannotStartFailsUpWithItsLastWords(t *testing.T) {
	testnet.RequireRoot(t)
	state := labtest.State(t)
	_, err := lab.Up(context.Background(), lab.Options{
		Nodes: 1, State: state, Bin: programs.Folder(t), AgentArgs: []string{"--nonsense"},
	})
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("the state folder is still there")
	}
}

func TestUpTwiceIsRefusedAndHarmsNothing(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	_, err := lab.Up(context.Background(), lab.Options{State: c.State(), Bin: programs.Folder(t)})
	if !errors.Is(err, lab.ErrUp) {
		t.Errorf("error is %v", err)
	}
	if err := c.Nodes()[0].Status(t.Context()); err != nil {
		t.Errorf("the first lab: %v", err)
	}
}

func TestAFolderThatIsSomeonesIsNotTouched(t *testing.T) {
	testnet.RequireRoot(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "precious")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.Up(t.Context(), lab.Options{State: folder, Bin: programs.Folder(t)}); err == nil {
		t.Error("up took the folder")
	}
	if was, err := lab.Down(folder); was || err != nil {
		t.Errorf("down says %v, %v", was, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
