package lab_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// backendPort is where the pods of a servicesRig serve.
const backendPort = 8080

// servicesRig makes backends and Services in a lab, and asks who answers at an address.
type servicesRig struct {
	*lab.Cluster
	t testing.TB
}

// backends creates pods NAME-1, NAME-2, … with the label app=NAME, one on each of the nodes. They serve at backendPort.
func (r servicesRig) backends(name string, nodes ...string) []*lab.Pod {
	r.t.Helper()
	var pods []*lab.Pod
	for i, node := range nodes {
		p, err := r.CreatePod(r.t.Context(), lab.PodOptions{
			Name: fmt.Sprintf("%s-%d", name, i+1), Node: node, Labels: map[string]string{"app": name}, Serve: []uint16{backendPort},
		})
		if err != nil {
			r.t.Fatal(err)
		}
		pods = append(pods, p)
	}
	return pods
}

// service creates a Service; without ports it has 80, by TCP and UDP, for the backends of its name.
func (r servicesRig) service(o lab.ServiceOptions) lab.Service {
	r.t.Helper()
	if len(o.Ports) == 0 {
		target := fmt.Sprint(backendPort)
		o.Ports = []lab.ServicePort{{Port: 80, Target: target, Protocol: "TCP"}, {Port: 80, Target: target, Protocol: "UDP"}}
	}
	s, err := r.CreateService(o)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// awaitEndpoints waits until a Service's slices have so many pods, and so many of them ready.
func (r servicesRig) awaitEndpoints(service string, endpoints, ready int) {
	r.t.Helper()
	eventually(r.t, 10*time.Second, fmt.Sprintf("%s has %d endpoints, %d ready", service, endpoints, ready), func() error {
		all, err := r.Services()
		for _, s := range all {
			if s.Name == service && s.Endpoints == endpoints && s.Ready == ready {
				return err
			}
		}
		return fmt.Errorf("the Services are %+v, %v", all, err)
	})
}

// ask asks from inside a place, as its programs would: the hooks of its node's control group see the sockets. Each
// answer is a connection's, or a socket's datagram, of its own.
func (r servicesRig) ask(from lab.Place, network string, to netip.AddrPort, times int) answers {
	r.t.Helper()
	args := []string{"lab", "ask", "-o", "json", fmt.Sprintf("--times=%d", times), fmt.Sprintf("--udp=%t", network == "udp"), to.String()}
	out, err := from.Command(r.t.Context(), filepath.Join(r.Bin(), "polder"), args...).Output()
	var all answers
	if err == nil {
		err = json.Unmarshal(out, &all)
	}
	if err != nil {
		r.t.Fatalf("ask from %s: %v\n%s", from.Name, err, out)
	}
	return all
}

// askPackets asks from the place's network namespace alone: no hook sees the sockets, so that it is for the programs
// on the links to find the backend, as for a virtual machine's packets.
func (r servicesRig) askPackets(from lab.Place, network string, to netip.AddrPort, times int) answers {
	r.t.Helper()
	var all answers
	err := from.Do(func() error {
		for range times {
			all = append(all, lab.Ask(network, to, 2*time.Second))
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// answers are what the clients got.
type answers []lab.Answer

// names counts who answered; "" are those that got no answer.
func (a answers) names() map[string]int {
	count := map[string]int{}
	for _, one := range a {
		count[one.Name]++
	}
	return count
}

// who lists those who answered, sorted.
func (a answers) who() []string { return slices.Sorted(maps.Keys(a.names())) }

// seen lists the client's addresses that were seen, sorted.
func (a answers) seen() []netip.Addr {
	set := map[netip.Addr]bool{}
	for _, one := range a {
		set[one.Seen.Addr()] = true
	}
	return slices.SortedFunc(maps.Keys(set), netip.Addr.Compare)
}

// rewritten lists the answers whose client was seen with another address or port than its own.
func (a answers) rewritten() answers {
	return slices.DeleteFunc(slices.Clone(a), func(one lab.Answer) bool { return one.Error != "" || one.Seen == one.Own })
}

// failures are why there was no answer.
func (a answers) failures() []string {
	var all []string
	for _, one := range a {
		if one.Error != "" {
			all = append(all, one.Error)
		}
	}
	return all
}
