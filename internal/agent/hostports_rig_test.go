package agent

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/internal/testnet"
)

const ownV4, ownV6 = "192.0.2.1", "2001:db8::1"

// newServingNode is a node that serves Services.
func newServingNode(t *testing.T, podCIDRs ...string) *node {
	testnet.RequireRoot(t)
	snap := oneNode(podCIDRs...)
	snap.Nodes[0].Addresses = []netip.Addr{netip.MustParseAddr(ownV4), netip.MustParseAddr(ownV6)}
	ownLink(t, "own", ownV4+"/24", ownV6+"/64")
	n := newNode(t, snap)
	n.serve(true)
	return n
}

// ownLink is a link with addresses, until the test ends.
func ownLink(t *testing.T, name string, prefixes ...string) {
	t.Helper()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"}
	err := netlink.LinkAdd(link)
	if err == nil {
		t.Cleanup(func() { netlink.LinkDel(link) })
		err = netlink.LinkSetUp(link)
	}
	for _, p := range prefixes {
		addr, parseErr := netlink.ParseAddr(p)
		if err = errors.Join(err, parseErr); err == nil {
			addr.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(link, addr)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// serve has the next agent serve Services, or not.
func (n *node) serve(on bool) {
	n.t.Helper()
	n.stop()
	n.cfg.Options.Services = on
	n.start()
}

// leads says where a frontend's row leads, nowhere if there is none.
func (n *node) leads(at string, protocol cluster.Protocol) (to netip.AddrPort) {
	n.t.Helper()
	open := func(name string) *ebpf.Map {
		pins, err := filepath.Glob(filepath.Join(n.cfg.Pins, "maps", name+"_*"))
		if err != nil || len(pins) != 1 {
			n.t.Fatalf("%s is pinned as %v, %v", name, pins, err)
		}
		m, err := ebpf.LoadPinnedMap(pins[0], nil)
		if err != nil {
			n.t.Fatal(err)
		}
		return m
	}
	frontends, backends := open("frontends"), open("backends")
	defer frontends.Close()
	defer backends.Close()
	f := netip.MustParseAddrPort(at)
	addr := f.Addr().As16()
	key := append(binary.BigEndian.AppendUint16(addr[:], f.Port()), byte(protocol), 0)
	row, err := frontends.LookupBytes(key)
	if err != nil || row == nil {
		return to
	}
	backend, err := backends.LookupBytes(append(row[:8:8], make([]byte, 8)...)) // slot 0 of its generation
	if err != nil || backend == nil {
		n.t.Fatalf("%s has no backend: %v", at, err)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(backend[:16])).Unmap(), binary.BigEndian.Uint16(backend[16:]))
}

// hostPorts is what the pinned map says, after a change to it.
func (n *node) hostPorts(do func(*datapath.Datapath) error) (have map[service.Frontend]datapath.HostPort) {
	n.t.Helper()
	n.withDatapath(func(d *datapath.Datapath) {
		err := do(d)
		if err == nil {
			have, err = d.HostPorts()
		}
		if err != nil {
			n.t.Fatal(err)
		}
	})
	return have
}

func port(host string, hostPort, containerPort uint16) api.PortMapping {
	m := api.PortMapping{HostPort: hostPort, ContainerPort: containerPort, Protocol: cluster.TCP}
	if host != "" {
		m.HostIP = netip.MustParseAddr(host)
	}
	return m
}

func withPorts(id string, ports ...api.PortMapping) api.Request {
	return api.Request{Verb: api.Add, Attachment: at(id), PodNamespace: "default", PodName: id, PortMappings: ports}
}

func checkOf(req api.Request, resp api.Response) api.Request {
	return api.Request{Verb: api.Check, Attachment: req.Attachment, Addresses: resp.Addresses, Routes: resp.Routes,
		Host: resp.Host, Pod: resp.Pod, PortMappings: req.PortMappings}
}

// expect checks where frontends of TCP lead: a pod's port as text, "" for nowhere.
func (n *node) expect(when string, leads map[string]string) {
	n.t.Helper()
	for at, want := range leads {
		got := n.leads(at, cluster.TCP)
		if text := strings.TrimPrefix(got.String(), "invalid AddrPort"); text != want {
			n.t.Errorf("%s, %s leads to %q, not %q", when, at, text, want)
		}
	}
}

// everywhere is a port 80 of all addresses that leads to port 8080 of the node's first pod.
func everywhere() map[string]string {
	return map[string]string{ownV4 + ":80": "10.0.1.2:8080", "127.0.0.1:80": "10.0.1.2:8080",
		"[" + ownV6 + "]:80": "[fd00:1::2]:8080", "[::1]:80": "[fd00:1::2]:8080", "0.0.0.0:80": "", "[::]:80": ""}
}

func nowhere(leads map[string]string) map[string]string {
	none := map[string]string{}
	for at := range leads {
		none[at] = ""
	}
	return none
}
