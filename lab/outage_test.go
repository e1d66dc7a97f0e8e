package lab_test

import (
	"flag"
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// The short run is part of every test run; docs/testing.md says how to do the full one.
var apiOutage = flag.Duration("restart.outage", 6*time.Second, "how long agents are without their API server, while they are killed under traffic")

// TestWithoutAnAPIServerEverythingStaysAsItIs takes the API server away under traffic, to pods and to a Service, allowed
// and denied, and kills the agents meanwhile: those that come find nobody who tells them anything.
func TestWithoutAnAPIServerEverythingStaysAsItIs(t *testing.T) {
	w := newAPIWorld(t, 2)
	client, near, far := w.pod(t, "client", "node-1"), w.pod(t, "near", "node-1"), w.pod(t, "far", "node-2")
	w.policy("ports", object{
		"podSelector": object{}, "policyTypes": []string{"Ingress"},
		"ingress": []object{{"ports": []object{{"protocol": "TCP", "port": 1024, "endPort": 65535}, {"protocol": "UDP", "port": 1024, "endPort": 65535}}}},
	})
	service := objects.Content{Size: objects.Size{Services: 1, Endpoints: 1}, Live: netip.AddrPortFrom(far.Addresses[0], 9000)}
	service.Put(w.api)

	end := func(p *lab.Pod) traffic.End { return traffic.End{Place: p.Place, Addr: p.Addresses[0]} }
	knocks := []denied{{"a closed port", end(client), end(near), forbidden}, {"a closed port of another node's pod", end(client), end(far), forbidden}}
	eventually(t, time.Minute, "the policy is in force", func() error { return knockOnce(t, knocks) })
	from := dialing(t, client.Place, client.Addresses)[0]
	paths := []traffic.Path{
		{Name: "same node", From: end(client), To: end(near)},
		{Name: "another node", From: end(client), To: end(far)},
		{Name: "a Service", From: from, To: end(far), Port: 9000, TCP: netip.AddrPortFrom(service.ClusterIP(0), objects.ServicePort)},
	}
	var run *traffic.Run
	eventually(t, time.Minute, "the Service is served", func() (err error) {
		run, err = traffic.Start(paths, traffic.Control(t), traffic.Load{Flows: 1, Every: 20 * time.Millisecond, Connects: 5, Datagrams: 50})
		return err
	})
	t.Cleanup(func() { run.Stop() })
	knocking := startKnocking(t, knocks)

	w.hide()
	for begun, i := time.Now(), 0; time.Since(begun) < *apiOutage; i++ {
		n := w.Nodes()[i%2]
		if err := n.KillAgent(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
	}
	for _, n := range w.Nodes() {
		w.show(t, n)
		if err := n.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(time.Second)
	for _, through := range knocking.end() {
		t.Error(through)
	}
	report, err := run.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s without an API server; %d knocks at closed doors\n%s", *apiOutage, knocking.sent.Load(), report)
	for _, lost := range report.Lost() {
		t.Error(lost)
	}

	// And what has changed meanwhile comes into force.
	w.policy("ports", object{"podSelector": object{}, "policyTypes": []string{"Ingress"}, "ingress": []object{{}}})
	eventually(t, time.Minute, "the new policy is in force", func() error {
		if err := knockOnce(t, knocks[:1]); err == nil {
			return errNotYet
		}
		return nil
	})
}
