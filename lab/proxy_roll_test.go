package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// opener opens connections to a Service one after the other, until it is stopped.
type opener struct {
	*client
	to     netip.AddrPort
	mu     sync.Mutex
	gone   string // this one must not answer any more
	opened map[string]int
	wrong  []error
}

func (o *opener) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		o.mu.Lock()
		gone := o.gone
		o.mu.Unlock()
		a, err := o.ask("tcp", o.to, patience)
		if err == nil && a.Name == gone {
			err = fmt.Errorf("%s answers", a.Name)
		}
		o.mu.Lock()
		o.opened[a.Name]++
		if err != nil {
			o.wrong = append(o.wrong, fmt.Errorf("%s, %s, while %q is gone: %w", o.Name, o.to, gone, err))
		}
		o.mu.Unlock()
	}
}

// kept is a connection that stays.
type kept struct {
	what string
	conn net.Conn
	with string // the backend
}

// keep opens connections of all clients to all frontends.
func (p *proxy) keep(s lab.Service) []kept {
	var all []kept
	for family, i := range families() {
		for _, c := range p.clients() {
			for what, to := range p.frontends(s, c, i) {
				for range 3 {
					conn, err := c.dial("tcp", netip.Addr{}, to[0], patience)
					if err != nil {
						p.t.Fatal(err)
					}
					p.t.Cleanup(func() { conn.Close() })
					a, err := who(conn, patience)
					if err != nil {
						p.t.Fatalf("%s asks %s: %v", c.Name, to[0], err)
					}
					all = append(all, kept{fmt.Sprintf("%s, %s, %s", c.Name, what, family), conn, a.Name})
				}
			}
		}
	}
	return all
}

// goOn wants all connections to go on, but for those with a backend that is no more.
func goOn(t *testing.T, all []kept, but map[string]bool) {
	t.Helper()
	for _, k := range all {
		if but[k.with] {
			continue
		}
		if a, err := who(k.conn, patience); err != nil || a.Name != k.with {
			t.Errorf("%s: connection with %s: %+v, %v", k.what, k.with, a, err)
		}
	}
}

// TestBackendsAreReplacedAndNoConnectionIsLost replaces all backends of a Service, as a rolling update does: a new one is
// ready before an old one is told to end, and that ends when nobody is sent there any more.
func TestBackendsAreReplacedAndNoConnectionIsLost(t *testing.T) {
	eachWay(t, func(t *testing.T, p *proxy) {
		nodes := []string{"node-1", "node-2", "node-3"}
		p.backends("web", nodes...)
		s := p.service(lab.ServiceOptions{Name: "web", Type: "NodePort"})
		p.servedBy("web", 3)
		standing := p.keep(s)
		stop := make(chan struct{})
		var running sync.WaitGroup
		openers := p.openers(s)
		for _, o := range openers {
			running.Go(func() { o.run(stop) })
		}
		gone := map[string]bool{}
		for i, node := range nodes {
			old := fmt.Sprintf("web-%d", i+1)
			p.replace(openers, old, fmt.Sprintf("new-%d", i+1), node)
			goOn(t, standing, gone)
			if err := p.DeletePod(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			gone[old] = true
			goOn(t, standing, gone)
		}
		close(stop)
		running.Wait()
		for _, o := range openers {
			for _, err := range o.wrong {
				t.Error(err)
			}
			t.Logf("%s, %s: %v", o.Name, o.to, o.opened)
			for i := range nodes {
				if o.opened[fmt.Sprintf("new-%d", i+1)] == 0 && len(o.opened) < 3 {
					t.Errorf("%s, %s: hardly anybody answered: %v", o.Name, o.to, o.opened)
				}
			}
		}
	})
}

func (p *proxy) openers(s lab.Service) []*opener {
	var all []*opener
	for _, i := range families() {
		for _, c := range p.clients() {
			for _, to := range p.frontends(s, c, i) {
				all = append(all, &opener{client: c, to: to[0], opened: map[string]int{}})
			}
		}
	}
	return all
}

// replace makes a pod that takes the place of another, and waits until every node sends new connections there instead.
func (p *proxy) replace(openers []*opener, old, next, node string) {
	p.t.Helper()
	create := lab.PodOptions{Name: next, Node: node, Labels: map[string]string{"app": "web"}, Serve: []uint16{backendPort}}
	if _, err := p.CreatePod(p.t.Context(), create); err != nil {
		p.t.Fatal(err)
	}
	p.servedBy("web", 4)
	if err := p.TerminatePod(old); err != nil {
		p.t.Fatal(err)
	}
	p.servedBy("web", 3)
	for _, o := range openers {
		o.mu.Lock()
		o.gone = old
		o.mu.Unlock()
	}
	time.Sleep(300 * time.Millisecond) // connections that were under way are through
}
