package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestMain is the plugin when a test (or libcni) starts this binary under the plugin's name, and a process that only
// keeps a network namespace when it is told to be one.
func TestMain(m *testing.M) {
	if socket := os.Getenv("POLDER_CNI_TEST_SOCKET"); socket != "" {
		p := process{
			name: filepath.Base(os.Args[0]), env: os.Getenv, socket: socket,
			stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		}
		os.Exit(p.run())
	}
	if os.Getenv("POLDER_CNI_TEST_SLEEP") != "" {
		io.Copy(io.Discard, os.Stdin) // until the parent closes it, or dies
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// rig is a folder of plugins, an agent and a pod's namespace.
type rig struct {
	t      *testing.T
	agent  *fakeAgent
	dir    string // of the delegated plugin's answers
	bin    string // CNI_PATH
	socket string
	netns  string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), bin: t.TempDir(), netns: newNetns(t)}
	r.socket = filepath.Join(t.TempDir(), "polder", "agent.sock")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"polder-cni", ipamName} {
		if err := os.Symlink(exe, filepath.Join(r.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(r.bin, "fake-ipam"), fakeIPAM, 0o755)
	r.agent = startAgent(t, r.socket)
	return r
}

// fakeIPAM notes its calls and answers what a test has put there.
const fakeIPAM = `#!/bin/sh
cd "$FAKE_IPAM_DIR" || exit 99
cat > "$CNI_COMMAND.in"
env | grep ^CNI_ | sort > "$CNI_COMMAND.env"
echo "$CNI_COMMAND" >> calls
echo "fake-ipam says $CNI_COMMAND" >&2
if [ -f "$CNI_COMMAND.out" ]; then cat "$CNI_COMMAND.out"; fi
if [ -f "$CNI_COMMAND.rc" ]; then exit "$(cat "$CNI_COMMAND.rc")"; fi
`

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// ipam sets what the delegated plugin answers to a verb.
func (r *rig) ipam(verb, out string, rc int) {
	r.t.Helper()
	write(r.t, filepath.Join(r.dir, verb+".out"), out, 0o600)
	write(r.t, filepath.Join(r.dir, verb+".rc"), strconv.Itoa(rc), 0o600)
}

// ipamCalls are the verbs that the delegated plugin got.
func (r *rig) ipamCalls() string {
	calls, err := os.ReadFile(filepath.Join(r.dir, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(calls)), " ")
}

// answer is what a plugin's process left.
type answer struct {
	stdout, stderr string
	rc             int
}

// env is what the rig's runtime sets. Empty values are left out.
type env map[string]string

// run starts the plugin as a runtime does.
func (r *rig) run(name, verb, conf string, changes env) answer {
	r.t.Helper()
	vars := env{
		"GORACE":      "atexit_sleep_ms=0", // with -race, this binary would wait a second for other threads at its end
		"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": r.netns, "CNI_IFNAME": "eth0", "CNI_PATH": r.bin,
		"POLDER_CNI_TEST_SOCKET": r.socket, "FAKE_IPAM_DIR": r.dir, "PATH": os.Getenv("PATH"),
	}
	for k, v := range changes {
		vars[k] = v
	}
	cmd := exec.Command(filepath.Join(r.bin, name))
	cmd.Env = []string{}
	for k, v := range vars {
		if v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(conf), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, syscall.EPIPE) {
		r.t.Fatal(err)
	}
	return answer{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// mustRun is run for a verb that must succeed.
func (r *rig) mustRun(name, verb, conf string, changes env) string {
	r.t.Helper()
	a := r.run(name, verb, conf, changes)
	if a.rc != 0 {
		r.t.Fatalf("%s %s of %s: exit status %d, %s%s", name, verb, conf, a.rc, a.stdout, a.stderr)
	}
	if verb != "ADD" && verb != "VERSION" && a.stdout != "" {
		r.t.Errorf("%s %s prints %q", name, verb, a.stdout)
	}
	return a.stdout
}

// failure is the error form of the specification.
type failure struct {
	CNIVersion string
	Code       uint
	Msg        string
	Details    string
}

// mustFail is run for a verb that must fail, in the form of the specification.
func (r *rig) mustFail(name, verb, conf string, changes env, code uint) failure {
	r.t.Helper()
	a := r.run(name, verb, conf, changes)
	var f failure
	d := json.NewDecoder(strings.NewReader(a.stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		r.t.Fatalf("%s: answer %.200q is no error: %v (%s)", verb, a.stdout, err, a.stderr)
	}
	if a.rc == 0 || f.Code != code || f.Msg == "" || !slices.Contains(supported(), f.CNIVersion) {
		r.t.Errorf("%s: exit status %d, %+v, want code %d", verb, a.rc, f, code)
	}
	return f
}

// conf builds a configuration from the members that differ.
func conf(version string, members ...string) string {
	all := append([]string{`"cniVersion":"` + version + `"`, `"name":"net1"`, `"type":"polder-cni"`}, members...)
	return "{" + strings.Join(all, ",") + "}"
}

// newNetns keeps a network namespace for the time of the test, and returns its path.
func newNetns(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"POLDER_CNI_TEST_SLEEP=1", "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 { // a user namespace, in which the child is root
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if os.Getenv("POLDER_ROOT_TESTS") == "1" {
			t.Fatal(err)
		}
		t.Skipf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
}
