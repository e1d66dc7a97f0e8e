package traffic

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// counters are what the kernels of the places counted, by name, of those in counted.
type counters map[string]uint64

// counted are the kernel's counters that tell of trouble (/proc/net/snmp, snmp6 and netstat).
func counted() []string {
	return []string{
		"Tcp.AttemptFails", "Tcp.EstabResets", "Tcp.OutRsts", "Tcp.RetransSegs", "Tcp.InErrs", "Tcp.InCsumErrors",
		"TcpExt.TCPTimeouts", "TcpExt.TCPAbortOnTimeout",
		"Udp.InErrors", "Udp.RcvbufErrors", "Udp.InCsumErrors", "Udp6InErrors", "Udp6RcvbufErrors", "Udp6InCsumErrors",
		"Ip.InDiscards", "Ip.OutNoRoutes", "Ip6InDiscards", "Ip6OutNoRoutes",
	}
}

func readCounters(p Place) (counters, error) {
	all := counters{}
	err := p.Do(func() error {
		for _, file := range []string{"snmp", "netstat", "snmp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			if os.IsNotExist(err) {
				continue // no IPv6
			}
			if err != nil {
				return fmt.Errorf("read counters: %w", err)
			}
			all.parse(string(b))
		}
		return nil
	})
	return all, err
}

// parse reads both formats: pairs of lines "Tcp: name …", "Tcp: value …"; or lines "name value".
func (c counters) parse(text string) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		names := strings.Fields(line)
		if len(names) == 2 && !strings.HasSuffix(names[0], ":") {
			c[names[0]], _ = strconv.ParseUint(names[1], 10, 64)
		}
		if i+1 >= len(lines) || len(names) < 2 {
			continue
		}
		values := strings.Fields(lines[i+1])
		if len(values) != len(names) || values[0] != names[0] {
			continue
		}
		for j := 1; j < len(names); j++ {
			if v, err := strconv.ParseUint(values[j], 10, 64); err == nil {
				c[strings.TrimSuffix(names[0], ":")+"."+names[j]] = v
			}
		}
	}
}

func (c counters) minus(before counters) counters {
	d := counters{}
	for _, name := range counted() {
		if c[name] > before[name] {
			d[name] = c[name] - before[name]
		}
	}
	return d
}
