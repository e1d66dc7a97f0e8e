package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
)

// court is a datapath of its own, without an agent: a node with two pods, one of which policies isolate, and all peers on
// another node or outside. Nothing but BPF_PROG_TEST_RUN passes packets to its programs.
type court struct {
	world    *rig.World
	folder   string // a bpf file system
	datapath *datapath.Datapath
	pods     [2]courtPod
	sizes    datapath.PolicySizes
}

// courtPod is a pod of a court: the first is isolated, nobody isolates the second.
type courtPod struct {
	addr  netip.Addr
	mac   net.HardwareAddr
	index int // of its link's other end
}

// namespace is that of all pods that are judged here.
const namespace = "default"

// The numbers of a court's pods, and its network's link.
const (
	isolated = 0
	free     = 1
	wire     = 1 // the loopback device
)

func (b *bench) newCourt(name string) (c *court, err error) {
	c = &court{folder: filepath.Join(b.state, "court-"+name)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("build court: %w", errors.Join(err, c.close()))
		}
	}()
	_ = unix.Unmount(c.folder, unix.MNT_DETACH) // of a run that was killed
	if err := os.MkdirAll(c.folder, 0o700); err != nil {
		return c, err
	}
	if err := unix.Mount("bpf", c.folder, "bpf", 0, ""); err != nil {
		return c, fmt.Errorf("mount bpf file system: %w", err)
	}
	if c.world, err = rig.Routed(rig.Options{Nodes: 1}); err != nil {
		return c, err
	}
	if c.datapath, err = datapath.Open(filepath.Join(c.folder, "polder"), slog.New(slog.DiscardHandler)); err != nil {
		return c, err
	}
	return c, c.furnish()
}

func (c *court) close() error {
	var errs []error
	if c.datapath != nil {
		errs = append(errs, c.datapath.Close())
	}
	if c.world != nil {
		c.world.Close()
	}
	return errors.Join(append(errs, unix.Unmount(c.folder, unix.MNT_DETACH), os.Remove(c.folder))...)
}

// furnish writes all but policies.
func (c *court) furnish() error {
	peer := netip.MustParseAddr("172.30.0.12")
	t := desired.Tables{
		Config:    desired.Config{HostCookie: 1, PodCIDR4: netip.MustParsePrefix("10.244.1.0/24"), Policies: true, Node4: netip.MustParseAddr("172.30.0.11")},
		Endpoints: map[netip.Addr]route.Endpoint{netip.MustParseAddr("172.30.0.11"): {}},
		Remotes: map[netip.Prefix]route.Remote{
			netip.MustParsePrefix("10.128.0.0/9"): {Kind: route.Native, Node: peer, Via: peer, Index: wire},
		},
	}
	for i := range c.pods {
		link, err := linkIn(c.world.Pods[i], "eth0")
		if err != nil {
			return err
		}
		c.pods[i] = courtPod{netip.AddrFrom4([4]byte{10, 244, 1, byte(2 + i)}), link.HardwareAddr, link.ParentIndex}
		t.Endpoints[c.pods[i].addr] = c.endpoint(i, policy.Subject{})
	}
	_, err := c.datapath.SyncMaps(t)
	return err
}

func (c *court) endpoint(pod int, s policy.Subject) route.Endpoint {
	return route.Endpoint{Index: c.pods[pod].index, PodMAC: cluster.MAC(c.pods[pod].mac), HostMAC: cluster.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee},
		Ingress: uint64(s.Ingress), Egress: uint64(s.Egress)}
}

// decide has the datapath judge by policies that are about pods of peers; it says how long it took to compile and to write
// them.
func (c *court) decide(peers []*cluster.Pod, policies []*cluster.NetworkPolicy) (compiled, written time.Duration, err error) {
	began := time.Now()
	web := cluster.Name{Namespace: namespace, Name: "web"}
	t := policy.NewTable("node-1")
	t.SetNamespace(namespace, &cluster.Namespace{Name: namespace})
	t.SetPod(web, &cluster.Pod{Namespace: namespace, Name: "web", Node: "node-1", Addresses: []netip.Addr{c.pods[isolated].addr},
		Labels: cluster.Labels{{Key: "app", Value: "web"}}})
	for _, p := range peers {
		t.SetPod(cluster.Name{Namespace: p.Namespace, Name: p.Name}, p)
	}
	for _, p := range policies {
		t.SetNetworkPolicy(p.Name, p)
	}
	all := t.All()
	compiled = time.Since(began)
	if _, err := c.datapath.ResyncPolicies(all); err != nil {
		return 0, 0, err
	}
	s := *all.Subjects[web]
	if !c.datapath.PolicyFits(s.Ingress) || !c.datapath.PolicyFits(s.Egress) || s == (policy.Subject{}) {
		return 0, 0, errors.New("the pod's rules do not fit, or there are none")
	}
	if err := c.datapath.PutEndpoint(c.pods[isolated].addr, c.endpoint(isolated, s)); err != nil {
		return 0, 0, err
	}
	c.sizes = c.datapath.PolicySizes()
	return compiled, time.Since(began) - compiled, c.datapath.SwappedPolicies(time.Now())
}
