package datapath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/desired"
)

// Live is a running datapath seen from outside its agent: the programs that its pinned links run now, and the pinned
// maps. It changes nothing.
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

// OpenLive opens the datapath that is pinned below dir.
func OpenLive(dir string) (*Live, error) {
	l := &Live{dir: dir, programs: map[desired.Program]*ebpf.Program{}}
	pins, err := os.ReadDir(filepath.Join(dir, "links"))
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	for _, pin := range pins {
		name, _, _ := strings.Cut(pin.Name(), ":")
		program := desired.Program(name)
		if l.programs[program] != nil {
			continue // one agent's links all run the same
		}
		if l.programs[program], err = runBy(filepath.Join(dir, "links", pin.Name())); err != nil {
			delete(l.programs, program)
			l.Close()
			return nil, fmt.Errorf("open program %s: %w", name, err)
		}
	}
	return l, nil
}

// runBy opens the program that a pinned link runs.
func runBy(pin string) (*ebpf.Program, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return nil, err
	}
	return ebpf.NewProgramFromID(info.Program)
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
