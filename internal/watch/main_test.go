package watch

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
)

// TestMain fails on leaked goroutines and file descriptors.
func TestMain(m *testing.M) {
	goroutines, files := runtime.NumGoroutine(), openFiles()
	code := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // the fuzzer's own goroutines and files stay
	}
	for range 100 { // what is ending may take a moment
		if runtime.NumGoroutine() <= goroutines && openFiles() <= files {
			os.Exit(code)
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Printf("leaked: %d goroutines, were %d; %d descriptors, were %d\n", runtime.NumGoroutine(), goroutines, openFiles(), files)
	_ = pprof.Lookup("goroutine").WriteTo(os.Stdout, 1)
	os.Exit(max(code, 1))
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	n := 0
	for _, e := range entries {
		// The runtime keeps its epoll and event descriptors.
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:[event") {
			n++
		}
	}
	return n
}

// text writes a Snapshot as the tests compare it: a line for everything it says.
func text(s *cluster.Snapshot) string {
	if s == nil {
		return "nil"
	}
	var b strings.Builder
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "node %s %v %v", n.Name, n.Addresses, n.PodCIDRs)
		if n.Zone != "" || n.Leaving {
			fmt.Fprintf(&b, " zone=%s leaving=%t", n.Zone, n.Leaving)
		}
		b.WriteByte('\n')
	}
	for _, p := range s.Pods {
		fmt.Fprintf(&b, "pod %s/%s uid=%s node=%s host=%t %v %v\n", p.Namespace, p.Name, p.UID, p.Node, p.HostNetwork, p.Addresses, labelsText(p.Labels))
	}
	if len(s.ServiceCIDRs) > 0 {
		fmt.Fprintf(&b, "service CIDRs %v\n", s.ServiceCIDRs)
	}
	b.WriteString(servicesText(s.Services))
	b.WriteString(policiesText(s))
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "problem %s: %s\n", p.Object, p.Message)
	}
	return b.String()
}

// servicesText writes Services, sorted; of what is seldom set, only what is.
func servicesText(s *cluster.Services) string {
	var b strings.Builder
	for _, name := range s.ChangedSince(nil) {
		o := s.Get(name)
		if v := o.Service; v != nil {
			fmt.Fprintf(&b, "service %s uid=%s %v ports=%v", v.ServiceName, v.UID, v.ClusterIPs, v.Ports)
			for _, more := range []struct {
				what string
				is   any
				not  bool
			}{
				{"created", v.Created, v.Created == 0}, {"external", v.ExternalIPs, len(v.ExternalIPs) == 0},
				{"lb", v.LoadBalancerIPs, len(v.LoadBalancerIPs) == 0}, {"from", v.SourceRanges, len(v.SourceRanges) == 0},
				{"internalLocal", true, !v.InternalLocal}, {"externalLocal", true, !v.ExternalLocal},
				{"affinity", v.Affinity, v.Affinity == 0}, {"health", v.HealthCheckNodePort, v.HealthCheckNodePort == 0},
			} {
				if !more.not {
					fmt.Fprintf(&b, " %s=%v", more.what, more.is)
				}
			}
			b.WriteByte('\n')
		}
		for _, l := range o.Slices {
			fmt.Fprintf(&b, "slice %s of %s v4=%t ports=%v", l.Name, name, l.IPv4, l.Ports)
			for _, e := range l.Endpoints {
				fmt.Fprintf(&b, " {%s node=%s %v %v ready=%t serving=%t terminating=%t}", e.Addr, e.Node, e.ForZones, e.ForNodes, e.Ready, e.Serving, e.Terminating)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// source is what the agent needs of either source.
type source interface {
	Changed() <-chan struct{}
	Latest() *cluster.Snapshot
}

// await waits until the source says something of which ok holds. It looks only when there is notice of a change, so
// it proves the notice, too.
func await(t *testing.T, src source, what string, ok func(*cluster.Snapshot) bool) *cluster.Snapshot {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case <-src.Changed():
			if s := src.Latest(); ok(s) {
				return s
			}
		case <-late:
			t.Fatalf("no notice of %s; last:\n%s", what, text(src.Latest()))
		}
	}
}

// awaitText waits until the source says just that.
func awaitText(t *testing.T, src source, want string) *cluster.Snapshot {
	t.Helper()
	return await(t, src, want, func(s *cluster.Snapshot) bool { return text(s) == want })
}
