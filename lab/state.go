package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// record is what the state folder's file lab.json says. It is written before anything is built and completed as
// things are.
type record struct {
	Racks     int          `json:"racks"`
	Bin       string       `json:"bin"`
	AgentArgs []string     `json:"agentArgs,omitempty"`
	AgentEnv  []string     `json:"agentEnv,omitempty"`
	Up        bool         `json:"up"` // false: being built, or the remains of a build that was killed
	Group     string       `json:"group"`
	Fabric    process      `json:"fabric"`
	Outside   nodeRecord   `json:"outside"`
	Nodes     []nodeRecord `json:"nodes"`
}

// nodeRecord is a node of the lab.
type nodeRecord struct {
	Name      string         `json:"name"`
	Number    int            `json:"number"` // from 1
	Rack      int            `json:"rack"`   // from 0
	Zone      string         `json:"zone,omitempty"`
	Addresses []netip.Prefix `json:"addresses"`
	PodCIDRs  []netip.Prefix `json:"podCIDRs,omitempty"`
	Holder    process        `json:"holder"`
}

// podRecord is a pod of the lab: the file pods/NAME.json.
type podRecord struct {
	Name         string         `json:"name"`
	Namespace    string         `json:"namespace,omitempty"` // empty: podNamespace
	Node         string         `json:"node"`
	UID          string         `json:"uid"`
	ContainerID  string         `json:"containerID"`
	Holder       process        `json:"holder"`
	Addresses    []netip.Addr   `json:"addresses,omitempty"`
	Capabilities map[string]any `json:"capabilities,omitempty"`

	Labels      map[string]string `json:"labels"`
	Serve       []uint16          `json:"serve,omitempty"`
	NotReady    bool              `json:"notReady,omitempty"`
	Terminating time.Time         `json:"terminating,omitzero"` // when it will be gone at the latest; zero: it is to stay
}

// folder is a lab's state folder.
//
//	lab.json              what the lab is
//	lock                  held while the lab is changed
//	services.lock         held while addresses for a Service are chosen
//	manifests/            the cluster's objects, as the agents read them
//	pods/NAME.json        a pod
//	nodes/NAME/agent.log  the agent's output
//	nodes/NAME/root/      the folders of the machine that are the node's own
type folder string

func (f folder) path(elem ...string) string {
	return filepath.Join(append([]string{string(f)}, elem...)...)
}

func (f folder) manifests() string                 { return f.path("manifests") }
func (f folder) pod(name string) string            { return f.path("pods", name+".json") }
func (f folder) node(name, elem string) string     { return f.path("nodes", name, elem) }
func (f folder) root(node, absolute string) string { return f.path("nodes", node, "root", absolute) }

// claim makes the folder, or takes one that is empty or a lab's. Anything else is someone's and stays untouched.
func (f folder) claim() error {
	entries, err := os.ReadDir(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return os.Mkdir(string(f), 0o755) // not its parents: they would stay behind
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lab.json" || e.Name() == "lock" {
			return nil
		}
	}
	if len(entries) > 0 {
		return fmt.Errorf("folder %s is neither empty nor a lab's", f)
	}
	return nil
}

// lockPatience is how long a lock is waited for: a child of a command that was killed holds it until it has become
// another program.
const lockPatience = time.Second

// lock holds the lab for one who changes it (exclusive) or one who adds or takes a pod. It fails when another has it.
func (f folder) lock(exclusive bool) (unlock func(), err error) {
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		unlock, err = f.tryLock(exclusive)
		if !errors.Is(err, errLocked) || time.Now().After(deadline) {
			return unlock, err
		}
	}
}

// errLocked says that another command has the lock.
var errLocked = errors.New("another command is at work on the lab")

func (f folder) tryLock(exclusive bool) (unlock func(), err error) {
	how := unix.LOCK_SH | unix.LOCK_NB
	if exclusive {
		how = unix.LOCK_EX | unix.LOCK_NB
	}
	file, err := os.OpenFile(f.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock lab: %w", err)
	}
	err = unix.Flock(int(file.Fd()), how)
	if err == nil && !f.isLock(file) {
		err = unix.EWOULDBLOCK // the lab was taken down in this moment
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		file.Close()
		return nil, fmt.Errorf("%w in %s: wait for it, or stop it", errLocked, f)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock lab: %w", err)
	}
	return func() { file.Close() }, nil
}

// isLock says whether an opened file is still the folder's lock.
func (f folder) isLock(file *os.File) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(f.path("lock"))
	return err == nil && os.SameFile(opened, there)
}

// load reads lab.json. Without one, the error is fs.ErrNotExist.
func (f folder) load() (record, error) {
	var r record
	b, err := os.ReadFile(f.path("lab.json"))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", f.path("lab.json"), err)
	}
	return r, nil
}

func (f folder) save(r record) error { return writeJSON(f.path("lab.json"), r) }

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'))
}

// writeFile replaces a file as a whole. The temporary name starts with a dot, which readers of manifests leave alone.
func writeFile(path string, b []byte) error {
	temporary, err := writeTemporary(path, b)
	if err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// createFile makes a file as a whole; where there is one, it fails with fs.ErrExist.
func createFile(path string, b []byte) error {
	temporary, err := writeTemporary(path, b)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	return os.Link(temporary, path)
}

// writeTemporary writes a file beside another.
func writeTemporary(path string, b []byte) (string, error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", err
	}
	_, err = file.Write(b)
	if err := errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		os.Remove(file.Name())
		return "", err
	}
	return file.Name(), nil
}
