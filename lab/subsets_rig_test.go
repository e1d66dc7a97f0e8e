package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// closedPort is where the pods of a subset serve besides backendPort; no policy opens it.
const closedPort = backendPort + 1

// silence is how long nobody must answer.
const silence = 400 * time.Millisecond

// subset is a lab of two nodes on which Polder plays some of its parts. Three pods are free, and two isolated where
// somebody enforces policies; each of these is the only backend of the Service of its name.
type subset struct {
	servicesRig
	parts
	t       *testing.T
	pods    []*lab.Pod
	clients map[string]*client // the pods and nodes
	serves  map[string]lab.Service
	bare    map[string][]api.Pool // by node, without any pod
}

func newSubset(t *testing.T, p parts) *subset {
	t.Helper()
	o := lab.Options{Nodes: 2, AgentArgs: p.args(), Deadline: 2 * time.Minute}
	if !p.network {
		o.Plugins, o.Network = references(t), p.otherNetwork(netip.Prefix{}, netip.Prefix{})
	}
	c := labtest.Up(t, &programs, o)
	s := &subset{servicesRig: servicesRig{c, t}, parts: p, t: t, clients: map[string]*client{}, serves: map[string]lab.Service{}, bare: map[string][]api.Pool{}}
	if !p.network {
		s.connectNodes()
	}
	for _, n := range s.Nodes() {
		s.bare[n.Name] = reportOf(t, n).Addresses
		s.clients[n.Name] = &client{n.Place, openSockets(t, n.Place), nil}
	}
	s.createPods()
	for _, name := range []string{"web-1", "web-2"} {
		var ports []lab.ServicePort
		for _, protocol := range []string{"TCP", "UDP"} {
			ports = append(ports, lab.ServicePort{Port: 80, Target: fmt.Sprint(backendPort), Protocol: protocol},
				lab.ServicePort{Port: 81, Target: fmt.Sprint(closedPort), Protocol: protocol})
		}
		s.serves[name] = s.service(lab.ServiceOptions{Name: name, Ports: ports})
		s.awaitEndpoints(name, 1, 1)
	}
	return s
}

// otherNetwork is a configuration of ptp. Where the agent guards pods, polder-cni is behind it, and Polder gives out the
// addresses; else the agent has nothing to do with pods, and host-local gives out those of the node's CIDRs.
func (p parts) otherNetwork(cidrs ...netip.Prefix) string {
	ipam, behind := `{"type":"polder-ipam"}`, `,{"type":"polder-cni"}`
	if !p.knowsPods() {
		ipam, behind = fmt.Sprintf(`{"type":"host-local","dataDir":"/run/polder/host-local","ranges":[[{"subnet":%q}],[{"subnet":%q}]],
			"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}`, cidrs[0], cidrs[1]), ""
	}
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"other","plugins":[{"type":"ptp","ipMasq":false,"ipam":%s}%s]}`, ipam, behind)
}

// connectNodes does what an administrator does where ptp connects pods: addresses for each node, routes to the others',
// and leave to forward.
func (s *subset) connectNodes() {
	s.t.Helper()
	for _, n := range s.Nodes() {
		err := n.Do(func() error {
			return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
		})
		if err != nil {
			s.t.Fatal(err)
		}
		write(s.t, filepath.Join(n.Path(cniNet), "10-lab.conflist"), s.otherNetwork(n.Cluster().PodCIDRs...))
		for _, other := range s.Nodes() {
			if other.Name == n.Name {
				continue
			}
			for i, cidr := range other.Cluster().PodCIDRs {
				routeVia(s.t, n.Place, cidr, other.Cluster().Addresses[i])
			}
		}
	}
}

// createPods makes all pods at once: ptp waits for the addresses of each.
func (s *subset) createPods() {
	s.t.Helper()
	if err := s.SetNamespace("free", nil); err != nil {
		s.t.Fatal(err)
	}
	options := append(freePods(), webPods()...)
	s.pods = make([]*lab.Pod, len(options))
	err := parallel(len(options), func(i int) (err error) {
		options[i].Serve = []uint16{backendPort, closedPort}
		s.pods[i], err = s.CreatePod(s.t.Context(), options[i])
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range s.pods {
		s.clients[p.Name] = &client{p.Place, openSockets(s.t, p.Place), p.Addresses}
	}
}

// settled waits until the agents do what they are to do, as far as it is their part.
func (s *subset) settled() {
	s.t.Helper()
	if s.services {
		s.servedBy("web-1", 1)
		s.servedBy("web-2", 1)
	}
	if s.policies {
		eventually(s.t, 10*time.Second, "the nodes obey the policies", func() error { return answer(s.toClosedPorts()) })
	}
}

// opens waits until nothing is closed any more: the policies are gone.
func (s *subset) opens() {
	s.t.Helper()
	open := s.toClosedPorts()
	for i := range open {
		open[i].who = open[i].at
	}
	eventually(s.t, 10*time.Second, "without policies all is open", func() error { return answerWithin(silence, open) })
}

// question is a client's, by both families and protocols.
type question struct {
	from    *client
	packets bool         // the client's sockets are out of sight: only packets are seen
	to      []netip.Addr // IPv4, IPv6
	port    uint16
	at      string // whose address it is, or who is behind it
	who     string // must answer; "": nobody
}

// answer asks all of them at once, and says what was not as it should be.
func answer(questions []question) error { return answerWithin(patience, questions) }

func answerWithin(limit time.Duration, questions []question) error {
	return parallel(len(questions)*4, func(i int) error {
		q := questions[i/4]
		return q.ask([]string{"tcp", "udp"}[i%2], netip.AddrPortFrom(q.to[i/2%2], q.port), limit)
	})
}

func (q question) ask(network string, to netip.AddrPort, limit time.Duration) error {
	if q.who == "" {
		limit = silence
	}
	var a lab.Answer
	var err error
	if !q.packets {
		a, err = q.from.ask(network, to, limit)
	} else {
		err = q.from.Do(func() error { a = lab.Ask(network, to, limit); return nil })
		if err == nil && a.Error != "" {
			err = fmt.Errorf("ask: %s", a.Error)
		}
	}
	switch {
	case q.who == "" && err != nil:
		return nil
	case err != nil || a.Name != q.who:
		return fmt.Errorf("%s asks %s of %s by %s (packets alone: %t): %q answers, %v; want %q", q.from.Name, to, q.at, network, q.packets, a.Name, err, q.who)
	case a.Seen != a.Own || q.from.addrs != nil && !slices.Contains(q.from.addrs, a.Own.Addr()):
		return fmt.Errorf("%s asks %s of %s by %s: it is %s, and seen as %s", q.from.Name, to, q.at, network, a.Own, a.Seen)
	}
	return nil
}
