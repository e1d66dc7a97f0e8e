package lab_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// sideNetwork gives a node one more device, which is no uplink, and a machine behind it.
func sideNetwork(t *testing.T, n *lab.Node) outsider {
	t.Helper()
	ns := testnet.New(t)
	err := n.Do(func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "side0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.File().Fd())}); err != nil {
			return err
		}
		l, err := netlink.LinkByName("side0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("10.50.0.1/16")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		return netlink.AddrAdd(l, addr)
	})
	if err != nil {
		t.Fatalf("connect a side network: %v", err)
	}
	ns.Up("eth0")
	ns.Addr("eth0", "10.50.0.7/16")
	return outsider{ns, []netip.Addr{netip.MustParseAddr("10.50.0.7")}}
}

// Where others may translate, what a pod sends to somebody outside is judged where it leaves: by whatever device.
func TestIsolatedPodsDoNotGetOutByAnotherDevice(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1, AgentArgs: []string{"--services", "off"}})
	node := c.Nodes()[0]
	far := sideNetwork(t, node)
	pod := create(t, c, lab.PodOptions{Name: "inmate"})
	door := watchDoor(t, traffic.End{Place: far, Addr: far.addresses[0]}, 8080)
	defer door.close()
	reaches := func() bool {
		shots := []*shot{{from: pod, to: netip.AddrPortFrom(far.addresses[0], 8080), protocol: unix.IPPROTO_TCP}}
		fire(t, shots, 500*time.Millisecond)
		return shots[0].opened
	}
	await := func(want bool, otherwise string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); reaches() != want; {
			if time.Now().After(deadline) {
				t.Fatal(otherwise)
			}
		}
	}
	await(true, "nobody isolates the pod, and it does not get out")
	apply(t, c, "closed", `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {}, policyTypes: [Egress]}
`)
	await(false, "the pod gets out by a device that is no uplink, whatever its policy says")
	before := door.arrived.Load()
	shots := []*shot{
		{from: pod, to: netip.AddrPortFrom(far.addresses[0], 8080), protocol: unix.IPPROTO_TCP},
		{from: pod, to: netip.AddrPortFrom(far.addresses[0], 8080), protocol: unix.IPPROTO_UDP},
	}
	if fire(t, shots, 500*time.Millisecond); door.arrived.Load() != before {
		t.Error("packets of an isolated pod arrived")
	}
}
