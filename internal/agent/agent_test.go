package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

// The test process has a network namespace and a bpf file system of its own: it is the node.
func TestMain(m *testing.M) { testnet.Main(m) }

// still is a source that says what it is told.
type still struct {
	mu      sync.Mutex
	snap    *cluster.Snapshot
	changed chan struct{}
}

func newStill(snap *cluster.Snapshot) *still {
	return &still{snap: snap, changed: make(chan struct{}, 1)}
}

func (s *still) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (s *still) Changed() <-chan struct{}      { return s.changed }

func (s *still) Latest() *cluster.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snap
}

func (s *still) say(snap *cluster.Snapshot) {
	s.mu.Lock()
	s.snap = snap
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// oneNode is a cluster of this node alone.
func oneNode(podCIDRs ...string) *cluster.Snapshot {
	n := cluster.Node{Name: "node-1"}
	for _, p := range podCIDRs {
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(p))
	}
	return &cluster.Snapshot{Nodes: []cluster.Node{n}}
}

// node is a running agent and what outlives it.
type node struct {
	t      *testing.T
	agent  *Agent // its state is to be looked at once it has stopped
	cfg    Config
	source *still
	stop   func()
}

// newNode starts an agent on a cluster. The node's state ends with the test.
func newNode(t *testing.T, snap *cluster.Snapshot, settings ...func(*Config)) *node {
	t.Helper()
	testnet.RequireRoot(t)
	dir := t.TempDir()
	plugin := filepath.Join(dir, "plugin")
	if err := os.WriteFile(plugin, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, source: newStill(snap)}
	n.cfg = Config{
		Node: "node-1", Version: "test", Options: desired.Options{Routing: route.ModeAuto}, Source: n.source,
		State: filepath.Join(dir, "run"), Pins: "/sys/fs/bpf/" + filepath.Base(dir),
		CNIBin: filepath.Join(dir, "bin"), CNINet: filepath.Join(dir, "net.d"), Plugin: plugin,
	}
	for _, set := range settings {
		set(&n.cfg)
	}
	n.start()
	t.Cleanup(func() {
		n.clear()
		n.stop()
		os.RemoveAll(n.cfg.Pins)
	})
	return n
}

func (n *node) start() {
	n.t.Helper()
	a, err := New(n.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		n.t.Fatal(err)
	}
	n.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("agent ended with: %v", err)
		}
	})
	for range 100 {
		if resp, err := n.call(api.Request{Verb: api.Status, DelegatedIPAM: true}, nil); err == nil && resp.Error == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// restart ends the agent and starts another on what it left.
func (n *node) restart() {
	n.t.Helper()
	n.stop()
	n.start()
}

func (n *node) call(req api.Request, netns *os.File) (api.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	resp, err := api.Call(ctx, filepath.Join(n.cfg.State, "agent.sock"), req, netns)
	var refusal *api.Error
	if errors.As(err, &refusal) {
		return api.Response{Error: refusal}, nil
	}
	return resp, err
}

// must calls and expects no error.
func (n *node) must(req api.Request, netns *os.File) api.Response {
	n.t.Helper()
	resp, err := n.call(req, netns)
	if err != nil {
		n.t.Fatal(err)
	}
	if resp.Error != nil {
		n.t.Fatalf("%s %s: %v", req.Verb, req.ContainerID, resp.Error)
	}
	return resp
}

// refused calls and expects an error of that code.
func (n *node) refused(code uint, req api.Request, netns *os.File) {
	n.t.Helper()
	resp, err := n.call(req, netns)
	if err != nil {
		n.t.Fatal(err)
	}
	if resp.Error == nil || resp.Error.Code != code {
		n.t.Fatalf("%s: got error %v, want code %d", req.Verb, resp.Error, code)
	}
}

func at(id string) api.Attachment {
	return api.Attachment{Network: "polder", ContainerID: id, Ifname: "eth0"}
}

func (n *node) add(id string, netns *os.File) api.Response {
	n.t.Helper()
	return n.must(api.Request{Verb: api.Add, Attachment: at(id), PodNamespace: "default", PodName: id}, netns)
}

func (n *node) del(id string) {
	n.t.Helper()
	n.must(api.Request{Verb: api.Del, Attachment: at(id)}, nil)
}

func (n *node) report() api.NodeReport {
	n.t.Helper()
	var r api.NodeReport
	if err := json.Unmarshal(n.must(api.Request{Verb: api.Report}, nil).Report, &r); err != nil {
		n.t.Fatal(err)
	}
	return r
}

// clear removes every pod and reservation, so that one test's node is not the next one's.
func (n *node) clear() {
	if n.source.Latest() == nil {
		return
	}
	n.must(api.Request{Verb: api.GC, Attachment: api.Attachment{Network: "polder"}, Valid: []api.Attachment{}}, nil)
	n.source.say(&cluster.Snapshot{Nodes: []cluster.Node{{Name: "node-1"}}})
	n.eventually("routes are gone", func() bool { return len(n.report().Addresses) == 0 })
}

// eventually waits for the loop to come to something.
func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	for range 600 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.t.Fatalf("it never came to this: %s", what)
}

func (n *node) counts() api.Pool {
	n.t.Helper()
	r := n.report()
	if len(r.Addresses) == 0 {
		return api.Pool{}
	}
	return r.Addresses[0]
}

func TestAPodComesAndGoes(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24", "fd00:1::/64"))
	pod := testnet.New(t)
	resp := n.add("a", pod.File())
	if len(resp.Addresses) != 2 || resp.Addresses[0].Prefix.String() != "10.0.1.2/32" || resp.Addresses[1].Prefix.String() != "fd00:1::2/128" {
		t.Fatalf("%+v", resp)
	}
	check := api.Request{Verb: api.Check, Attachment: at("a"), Addresses: resp.Addresses, Routes: resp.Routes, Host: resp.Host, Pod: resp.Pod}
	n.must(check, pod.File())
	n.refused(api.CodeExists, api.Request{Verb: api.Add, Attachment: at("a")}, pod.File())
	n.del("a")
	n.del("a") // twice is fine
	n.refused(api.CodeUnknownContainer, check, pod.File())
	if c := n.counts(); c.Used != 0 || c.Cooling != 1 {
		t.Fatalf("%+v", c)
	}
}

func TestTheNextAgentKnowsEveryPodAndEveryCoolingAddress(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24"))
	stays, goes := testnet.New(t), testnet.New(t)
	kept := n.add("stays", stays.File())
	gone := n.add("goes", goes.File())
	n.must(api.Request{Verb: api.Reserve, Attachment: at("held")}, nil)
	n.del("goes")
	before := n.report().Pods
	n.restart()
	if after := n.report().Pods; fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatalf("pods were %v, are %v", before, after)
	}
	if c := n.counts(); c.Used != 2 || c.Cooling != 1 {
		t.Fatalf("%+v", c)
	}
	again := testnet.New(t)
	for _, old := range []api.Response{kept, gone} {
		if got := n.add("new"+old.Host.Name, again.File()); got.Addresses[0].Prefix == old.Addresses[0].Prefix {
			t.Fatalf("%s was given again", got.Addresses[0].Prefix)
		}
		n.del("new" + old.Host.Name)
	}
	n.must(api.Request{Verb: api.Release, Attachment: at("held")}, nil)
}

func TestAnExhaustedRangeSaysSo(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/29"))
	var pods []*testnet.NS
	for i := range 5 {
		pods = append(pods, testnet.New(t))
		n.add(fmt.Sprint("p", i), pods[i].File())
	}
	more := testnet.New(t)
	n.refused(api.CodeTryAgain, api.Request{Verb: api.Add, Attachment: at("more")}, more.File())
	n.refused(api.CodeNotAvailable, api.Request{Verb: api.Status}, nil)
	n.del("p3")
	n.must(api.Request{Verb: api.Status}, nil)
	n.add("more", more.File())
}

func TestReservationsAreAnsweredTheSameUntilReleased(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24", "fd00:1::/64"))
	reserve := api.Request{Verb: api.Reserve, Attachment: at("r")}
	first, second := n.must(reserve, nil), n.must(reserve, nil)
	if fmt.Sprint(first) != fmt.Sprint(second) || first.Addresses[0].Prefix.String() != "10.0.1.2/24" || first.Addresses[0].Gateway.String() != "10.0.1.1" {
		t.Fatalf("%+v, then %+v", first, second)
	}
	n.must(api.Request{Verb: api.Reserved, Attachment: at("r"), Addresses: first.Addresses}, nil)
	n.refused(api.CodeNotAsExpected, api.Request{Verb: api.Reserved, Attachment: at("r"), Addresses: first.Addresses[:1]}, nil)
	n.must(api.Request{Verb: api.Release, Attachment: at("r")}, nil)
	n.must(api.Request{Verb: api.Release, Attachment: at("r")}, nil)
	n.refused(api.CodeNotAsExpected, api.Request{Verb: api.Reserved, Attachment: at("r"), Addresses: first.Addresses}, nil)
}

func TestGCRemovesWhatIsNotListedAndNothingElse(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24"))
	a, b := testnet.New(t), testnet.New(t)
	n.add("a", a.File())
	n.add("b", b.File())
	n.must(api.Request{Verb: api.Reserve, Attachment: at("held")}, nil)
	other := at("c")
	other.Network = "other"
	n.must(api.Request{Verb: api.Reserve, Attachment: other}, nil)
	n.must(api.Request{Verb: api.GC, Attachment: api.Attachment{Network: "polder"}, Valid: []api.Attachment{at("b")}}, nil)
	if c := n.counts(); c.Used != 3 || c.Cooling != 1 { // b, held, other's
		t.Fatalf("%+v", c)
	}
	n.must(api.Request{Verb: api.GC, Attachment: api.Attachment{Network: "polder"}, IPAM: true, Valid: []api.Attachment{}}, nil)
	if c := n.counts(); c.Used != 2 {
		t.Fatalf("%+v", c)
	}
	n.must(api.Request{Verb: api.Release, Attachment: other}, nil)
}

func TestNothingIsDeletedBeforeTheClusterHasBeenRead(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24"))
	pod, other := testnet.New(t), testnet.New(t)
	n.add("a", pod.File())
	n.add("b", other.File())
	n.stop()
	known := n.source.Latest()
	n.source.say(nil)
	n.start()
	n.refused(api.CodeTryAgain, api.Request{Verb: api.Add, Attachment: at("c")}, pod.File())
	n.del("b") // pods can end meanwhile
	n.source.say(known)
	n.eventually("the pod is known", func() bool { return len(n.report().Pods) == 1 })
	if c := n.counts(); c.Used != 1 || c.Cooling != 1 {
		t.Fatalf("%+v", c)
	}
}

func TestANodeThatTheClusterForgetsKeepsItsPods(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24"))
	pod := testnet.New(t)
	n.add("a", pod.File())
	before := n.report()
	n.source.say(&cluster.Snapshot{})
	n.eventually("it is said", func() bool { return len(n.report().Problems) > len(before.Problems) })
	n.refused(api.CodeLimited, api.Request{Verb: api.Status}, nil)
	n.source.say(oneNode("10.0.1.0/24"))
	n.eventually("all is well", func() bool { return len(n.report().Problems) == len(before.Problems) })
	if r := n.report(); len(r.Repairs) > 0 || len(r.Pods) != 1 {
		t.Fatalf("%+v", r)
	}
}

func TestASecondAgentOnOneNodeIsRefused(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24"))
	second, err := New(n.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil {
		t.Fatal("two agents run")
	}
	n.must(api.Request{Verb: api.Status}, nil)
}
