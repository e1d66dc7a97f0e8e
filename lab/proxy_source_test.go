package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// outage takes the source of the cluster's state away, and says how it comes back.
type outage struct {
	name string
	take func(*testing.T, *proxy) (back func())
}

func outages() []outage {
	return []outage{
		{"the folder is empty", takeFiles},
		{"the folder is gone", takeFolder},
		{"manifests of Services are garbled", garble},
	}
}

// TestServicesAreServedWhileTheirSourceIsGone restarts all agents while there is nothing to learn from. What is served goes
// on to be; what changes later is followed.
func TestServicesAreServedWhileTheirSourceIsGone(t *testing.T) {
	eachWay(t, func(t *testing.T, p *proxy) {
		p.backends("web", "node-1", "node-2", "node-3")
		s := p.service(lab.ServiceOptions{Name: "web", Type: "NodePort"})
		p.servedBy("web", 3)
		for _, o := range outages() {
			t.Run(o.name, func(t *testing.T) {
				stop := p.open(t, s)
				back := o.take(t, p)
				p.killAll(t)
				time.Sleep(7 * time.Second) // the folder is read every five
				stop()
				back()
				p.readyAgain(t)
				p.follow(t, s)
			})
		}
	})
}

// open opens connections until it is told to stop, and wants all to be answered.
func (p *proxy) open(t *testing.T, s lab.Service) (stop func()) {
	end := make(chan struct{})
	var running sync.WaitGroup
	openers := p.openers(s)
	for _, o := range openers {
		running.Go(func() { o.run(end) })
	}
	stop = sync.OnceFunc(func() {
		close(end)
		running.Wait()
		for _, o := range openers {
			if len(o.wrong) > 0 {
				t.Errorf("%d of these: %v", len(o.wrong), o.wrong[0])
			}
			if len(o.opened) < 2 {
				t.Errorf("%s, %s: hardly anybody answered: %v", o.Name, o.to, o.opened)
			}
		}
	})
	t.Cleanup(stop)
	return stop
}

// killAll kills all agents that run, and returns when each has ended.
func (p *proxy) killAll(t *testing.T) {
	t.Helper()
	for _, n := range p.Nodes() {
		old := n.AgentPID()
		if err := n.KillAgent(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, n.Name+"'s agent ends", func() error {
			if n.AgentPID() == old {
				return os.ErrExist
			}
			return nil
		})
	}
}

func (p *proxy) readyAgain(t *testing.T) {
	t.Helper()
	for _, n := range p.Nodes() {
		eventually(t, time.Minute, n.Name+" is ready", func() error { return n.WaitReady(t.Context()) })
	}
}

// follow changes what there is, and wants it to be followed.
func (p *proxy) follow(t *testing.T, s lab.Service) {
	t.Helper()
	later := p.service(lab.ServiceOptions{Name: "later", Selector: map[string]string{"app": "web"}, Type: "NodePort"})
	p.servedBy("later", 3)
	if err := p.SetPodReady("web-1", false); err != nil {
		t.Fatal(err)
	}
	p.servedBy("web", 2)
	for _, service := range []lab.Service{s, later} {
		for _, i := range families() {
			for _, c := range p.clients() {
				for what, to := range p.frontends(service, c, i) {
					for range 3 {
						if _, err := (outcome{backends: []string{"web-2", "web-3"}}).check(c, "tcp", to[0]); err != nil {
							t.Errorf("%s: %v", what, err)
						}
					}
				}
			}
		}
	}
	if err := p.SetPodReady("web-1", true); err != nil {
		t.Fatal(err)
	}
	if err := p.DeleteService("later"); err != nil {
		t.Fatal(err)
	}
	p.servedBy("web", 3)
}

func takeFiles(t *testing.T, p *proxy) func() {
	away := p.Manifests() + ".away"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(away, 0o755))
	move := func(from, to string) {
		t.Helper()
		entries, err := os.ReadDir(from)
		must(err)
		for _, e := range entries {
			must(os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())))
		}
	}
	move(p.Manifests(), away)
	return func() {
		move(away, p.Manifests())
		must(os.Remove(away))
	}
}

func takeFolder(t *testing.T, p *proxy) func() {
	away := p.Manifests() + ".away"
	if err := os.Rename(p.Manifests(), away); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(away, p.Manifests()); err != nil {
			t.Fatal(err)
		}
	}
}

// garble makes all that says anything of Services unreadable.
func garble(t *testing.T, p *proxy) func() {
	entries, err := os.ReadDir(p.Manifests())
	if err != nil {
		t.Fatal(err)
	}
	replace := func(path, text string) {
		write(t, path+".new", text)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	was := map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "service-") || strings.HasPrefix(e.Name(), "endpointslices-") {
			path := filepath.Join(p.Manifests(), e.Name())
			was[path] = readFile(path)
			replace(path, "kind: [")
		}
	}
	return func() {
		for path, text := range was {
			replace(path, text)
		}
	}
}
