// Package datapath owns the eBPF programs and maps of this node: it loads them, pins them so that they outlive the
// agent, attaches them to links, and writes rows into map entries. It decides nothing about what the rows say.
package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/desired"
)

// Dir is where the pins are, on every node.
const Dir = "/sys/fs/bpf/polder"

// Datapath is the loaded datapath. It is not safe for concurrent use: the agent's loop owns it.
type Datapath struct {
	dir      string
	log      *slog.Logger
	spec     *ebpf.CollectionSpec
	maps     map[string]*ebpf.Map
	programs map[desired.Program]*ebpf.Program
	links    map[desired.Hook]attached
	tcx      bool
	outcomes []string
	services services
	policies policies
	writes   Writes
	sockets  map[desired.Program]link.Link
}

// Open loads the programs and opens or makes the pinned maps below dir, which must be on a bpf file system. Packets
// do not notice: what runs goes on running until Attach replaces it.
func Open(dir string, log *slog.Logger) (*Datapath, error) {
	if err := checkKernel(dir); err != nil {
		return nil, err
	}
	spec, err := loadBpf()
	if err != nil {
		return nil, fmt.Errorf("read datapath object: %w", err)
	}
	return open(dir, log, spec)
}

func open(dir string, log *slog.Logger, spec *ebpf.CollectionSpec) (*Datapath, error) {
	for _, d := range []string{dir, filepath.Join(dir, "maps"), filepath.Join(dir, "links")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make pin folder: %w", err)
		}
	}
	d := &Datapath{dir: dir, log: log, spec: spec, links: map[desired.Hook]attached{}, sockets: map[desired.Program]link.Link{}}
	var err error
	if d.outcomes, err = outcomeNames(spec); err != nil {
		return nil, err
	}
	if err := d.load(); err != nil {
		d.Close()
		return nil, err
	}
	d.tcx = haveTCX(d.programs[desired.FromPod])
	return d, nil
}

func (d *Datapath) load() error {
	maps, err := openMaps(d.spec, filepath.Join(d.dir, "maps"))
	d.maps = maps
	if err != nil {
		return err
	}
	coll, err := ebpf.NewCollectionWithOptions(d.spec, ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			d.log.Debug("verifier says", "log", fmt.Sprintf("%+v", verifier))
		}
		return fmt.Errorf("load datapath: %w", err)
	}
	defer coll.Close()
	d.programs = map[desired.Program]*ebpf.Program{}
	for name := range coll.Programs {
		d.programs[desired.Program(name)] = coll.DetachProgram(name)
	}
	return nil
}

// Close lets go of everything; what is pinned goes on.
func (d *Datapath) Close() error {
	for _, a := range d.links {
		a.link.Close()
	}
	for _, l := range d.sockets {
		l.Close()
	}
	for _, p := range d.programs {
		p.Close()
	}
	for _, m := range d.maps {
		m.Close()
	}
	return nil
}

// UsesTCX says whether programs are attached as tcx links (Linux 6.6 on). Where not, the caller attaches
// ProgramFD to clsact.
func (d *Datapath) UsesTCX() bool { return d.tcx }

// ProgramFD is the descriptor of a loaded program, and whether there is such a program.
func (d *Datapath) ProgramFD(p desired.Program) (int, bool) {
	prog, ok := d.programs[p]
	if !ok {
		return 0, false
	}
	return prog.FD(), true
}

// ProgramID is the kernel's number of a loaded program.
func (d *Datapath) ProgramID(p desired.Program) (int, error) {
	prog, ok := d.programs[p]
	if !ok {
		return 0, fmt.Errorf("find program %s: there is none", p)
	}
	info, err := prog.Info()
	if err != nil {
		return 0, fmt.Errorf("find program %s: %w", p, err)
	}
	id, _ := info.ID()
	return int(id), nil
}

// outcomeNames reads the words of enum outcome from the object itself: "DROP_SPOOFED_MAC".
func outcomeNames(spec *ebpf.CollectionSpec) ([]string, error) {
	var enum *btf.Enum
	if err := spec.Types.TypeByName("outcome", &enum); err != nil {
		return nil, fmt.Errorf("read enum outcome: %w", err)
	}
	names := make([]string, bpfOutcomeOUTCOMES)
	for _, v := range enum.Values {
		if v.Value < uint64(len(names)) {
			names[v.Value] = v.Name
		}
	}
	return names, nil
}

// checkKernel gives the one line that says what is missing, before anything is touched.
func checkKernel(dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("load datapath: not root: run the agent as root")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return errors.New("load datapath: this kernel has no BTF (/sys/kernel/btf/vmlinux): it must be built with CONFIG_DEBUG_INFO_BTF")
	}
	major, minor, err := kernelVersion()
	if err != nil {
		return err
	}
	if major < 6 || major == 6 && minor < 1 {
		return fmt.Errorf("load datapath: Linux %d.%d is too old: 6.1 or later is needed", major, minor)
	}
	return checkBPFFS(filepath.Dir(dir))
}

// A plain folder in place of a bpf file system would lose everything when the agent exits.
func checkBPFFS(parent string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(parent, &fs); err != nil {
		return fmt.Errorf("load datapath: %s: %w: mount it with: mount -t bpf bpf %s", parent, err, parent)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("load datapath: %s is not a bpf file system: mount it with: mount -t bpf bpf %s", parent, parent)
	}
	return nil
}

func kernelVersion() (major, minor int, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return 0, 0, fmt.Errorf("read kernel version: %w", err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("read kernel version: %w", err)
	}
	return major, minor, nil
}

// haveTCX asks the kernel with a link to no device: a kernel that knows tcx misses the device, another the command.
func haveTCX(prog *ebpf.Program) bool {
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1<<31 - 1, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
		return true
	}
	return !errors.Is(err, ebpf.ErrNotSupported)
}
