package datapath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/desired"
)

// Live is a running datapath seen from outside its agent: its programs and its pinned maps. It changes nothing.
type Live struct {
	dir      string
	programs map[desired.Program]*ebpf.Program
}

// actRedirect is TC_ACT_REDIRECT (include/uapi/linux/pkt_cls.h).
const actRedirect = 7

// Cost is what a program has run, by the kernel's count.
type Cost struct {
	Runs uint64
	Time time.Duration
}

// Since is the cost since an earlier look.
func (c Cost) Since(before Cost) Cost { return Cost{c.Runs - before.Runs, c.Time - before.Time} }

// PerRun is nanoseconds a packet.
func (c Cost) PerRun() float64 { return float64(c.Time.Nanoseconds()) / float64(c.Runs) }

// OpenLive opens the datapath whose maps are pinned below dir. Its programs are those that use these maps, whatever
// they are attached by; where an upgrade has left two of a name, the one loaded last.
func OpenLive(dir string) (*Live, error) {
	maps, err := pinnedMaps(dir)
	if err != nil {
		return nil, err
	}
	l := &Live{dir: dir, programs: map[desired.Program]*ebpf.Program{}}
	var id ebpf.ProgramID
	for {
		id, err = ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return l, nil
		}
		if err == nil {
			err = l.consider(id, maps)
		}
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("find programs: %w", err)
		}
	}
}

// pinnedMaps are the numbers of the maps below dir.
func pinnedMaps(dir string) (map[ebpf.MapID]bool, error) {
	pins, err := filepath.Glob(filepath.Join(dir, "maps", "*"))
	if err != nil {
		return nil, err
	}
	maps := map[ebpf.MapID]bool{}
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil, fmt.Errorf("open map %s: %w", filepath.Base(pin), err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			return nil, fmt.Errorf("look at map %s: %w", filepath.Base(pin), err)
		}
		if id, ok := info.ID(); ok {
			maps[id] = true
		}
	}
	if len(maps) == 0 {
		return nil, fmt.Errorf("no datapath is pinned in %s", dir)
	}
	return maps, nil
}

// consider takes a program that uses one of the maps.
func (l *Live) consider(id ebpf.ProgramID, maps map[ebpf.MapID]bool) error {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil // unloaded in this moment
	}
	if err != nil {
		return err
	}
	info, err := p.Info()
	if err != nil {
		p.Close()
		return err
	}
	used, _ := info.MapIDs()
	if !slices.ContainsFunc(used, func(m ebpf.MapID) bool { return maps[m] }) {
		return p.Close()
	}
	name := desired.Program(info.Name)
	if old := l.programs[name]; old != nil {
		old.Close()
	}
	l.programs[name] = p
	return nil
}

// Close lets go of the programs.
func (l *Live) Close() {
	for _, p := range l.programs {
		p.Close()
	}
}

// Costs returns the cost of every program since it was loaded. The kernel counts only while CountCosts says so.
func (l *Live) Costs() (map[desired.Program]Cost, error) {
	costs := map[desired.Program]Cost{}
	for name, p := range l.programs {
		s, err := p.Stats()
		if err != nil {
			return nil, fmt.Errorf("read cost of %s: %w", name, err)
		}
		costs[name] = Cost{s.RunCount, s.Runtime}
	}
	return costs, nil
}

// CountCosts makes the kernel count what programs cost, until it is closed.
func CountCosts() (io.Closer, error) {
	c, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("count costs of programs: %w", err)
	}
	return c, nil
}

// ClockCost is what CountCosts itself adds to every run of a program: the cost of one that does nothing.
func ClockCost() (Cost, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return Cost{}, fmt.Errorf("load program that does nothing: %w", err)
	}
	defer p.Close()
	counting, err := CountCosts()
	if err != nil {
		return Cost{}, err
	}
	defer counting.Close()
	if _, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: 1 << 20}); err != nil {
		return Cost{}, fmt.Errorf("run program that does nothing: %w", err)
	}
	s, err := p.Stats()
	if err != nil {
		return Cost{}, fmt.Errorf("read cost of program that does nothing: %w", err)
	}
	return Cost{s.RunCount, s.Runtime}, nil
}

// Time runs a program on a made-up frame that comes in by a device of the calling thread's network namespace, and
// returns how long a run takes. It is for frames that the program redirects; others are an error. Every run takes one
// hop off the frame's TTL, so there cannot be more than that allows. What a call costs besides is measured by a call
// of one run, and taken off.
func (l *Live) Time(p desired.Program, ifindex int, frame []byte, runs int) (time.Duration, error) {
	if runs < 2 || l.programs[p] == nil {
		return 0, errors.New("time program: want two runs or more, of a program that runs")
	}
	one, err := l.run(p, ifindex, frame, 1)
	if err != nil {
		return 0, err
	}
	many, err := l.run(p, ifindex, frame, runs)
	return (many - one) / time.Duration(runs-1), err
}

func (l *Live) run(p desired.Program, ifindex int, frame []byte, repeat int) (time.Duration, error) {
	opts := ebpf.RunOptions{Data: frame, Context: skb{Ifindex: uint32(ifindex)}, Repeat: uint32(repeat)}
	began := time.Now()
	verdict, err := l.programs[p].Run(&opts)
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", p, err)
	}
	if verdict != actRedirect {
		return 0, fmt.Errorf("run %s: verdict %d, not to redirect", p, verdict)
	}
	return took, nil
}

// Entries counts the entries of every pinned map that has no fixed number of them.
func (l *Live) Entries() (map[string]int, error) {
	pins, err := os.ReadDir(filepath.Join(l.dir, "maps"))
	if err != nil {
		return nil, fmt.Errorf("list pinned maps: %w", err)
	}
	entries := map[string]int{}
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(filepath.Join(l.dir, "maps", pin.Name()), &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil, fmt.Errorf("open map %s: %w", pin.Name(), err)
		}
		if t := m.Type(); t == ebpf.Hash || t == ebpf.LPMTrie {
			name, _, _ := strings.Cut(pin.Name(), "_")
			entries[name], err = count(m)
		}
		m.Close()
		if err != nil {
			return nil, fmt.Errorf("count entries of map %s: %w", pin.Name(), err)
		}
	}
	return entries, nil
}

func count(m *ebpf.Map) (int, error) {
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	n := 0
	it := m.Iterate()
	for it.Next(&key, &value) {
		n++
	}
	return n, it.Err()
}
