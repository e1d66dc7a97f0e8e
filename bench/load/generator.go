package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// warmUp is what every client does before it counts.
const warmUp = 100 * time.Millisecond

// stuck is after how long a socket call gives up: something is broken.
const stuck = 10 * time.Second

// niceness keeps the machine's other work away from the measurement.
const niceness = -20

// job is a generator's task.
type job struct {
	kind   Kind
	server netip.AddrPort
	own    netip.Addr // the client's address
	flows  int
	time   time.Duration
	via    Via
}

// Main is a generator's life. Its arguments are those of Spec.command.
func Main(args []string) error {
	// Nothing here makes garbage, and a collector would wait for threads that wait for packets.
	debug.SetGCPercent(-1)
	role, j, err := parseArgs(args)
	if err != nil {
		return err
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness); err != nil {
		return fmt.Errorf("set priority: %w", err)
	}
	work, ok := map[string]func(job) (reply, error){
		"server rr": serveRR, "client rr": requestRR,
		"server crr": serveCRR, "client crr": requestCRR,
		"server stream": serveStream, "client stream": requestStream,
		"server udp": serveUDP, "client udp": requestUDP,
		"server connect": serveConnect, "client connect": requestConnect,
		"server beside": serveConnect, "client beside": requestConnect,
	}[role+" "+string(j.kind)]
	if !ok {
		return fmt.Errorf("no such generator: %s %s", role, j.kind)
	}
	r, err := work(j)
	if err != nil {
		return fmt.Errorf("%s %s: %w", role, j.kind, err)
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func parseArgs(args []string) (role string, j job, err error) {
	if len(args) != 7 {
		return "", j, errors.New("want: ROLE KIND SERVER CLIENT FLOWS TIME VIA")
	}
	var errs [5]error
	role, j.kind = args[0], Kind(args[1])
	j.server, errs[0] = netip.ParseAddrPort(args[2])
	j.own, errs[1] = netip.ParseAddr(args[3])
	j.flows, errs[2] = strconv.Atoi(args[4])
	j.time, errs[3] = time.ParseDuration(args[5])
	j.via, errs[4] = parseVia(args[6])
	return role, j, errors.Join(errs[:]...)
}

// announce tells the parent that the server listens.
func announce() { os.Stdout.WriteString("ready\n") }

// meter measures the time of a generator's work, and the processor time of all it did since it began.
type meter struct {
	began time.Time
	cpu   float64
}

func begin() (meter, error) {
	cpu, err := ownTime()
	return meter{time.Now(), cpu}, err
}

// lap says that the warm-up is over.
func (m *meter) lap() { m.began = time.Now() }

func (m meter) end(r reply) (reply, error) {
	r.Seconds = time.Since(m.began).Seconds()
	cpu, err := ownTime()
	r.CPU = cpu - m.cpu
	return r, err
}

// until calls f again and again for a time, and returns how often. The clock is read once in a batch.
func until(limit time.Duration, batch int, f func() error) (float64, error) {
	var count float64
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		for range batch {
			if err := f(); err != nil {
				return count, err
			}
			count++
		}
	}
	return count, nil
}

// measure warms up, then counts what f does.
func (j job) measure(batch int, f func() error) (reply, error) {
	m, err := begin()
	if err != nil {
		return reply{}, err
	}
	warm, err := until(warmUp, batch, f)
	if err != nil {
		return reply{}, err
	}
	m.lap()
	count, err := until(j.time, batch, f)
	if err != nil {
		return reply{}, err
	}
	return m.end(reply{Ops: count, Work: warm + count})
}
