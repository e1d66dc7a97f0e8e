package netdev

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

const tunnelRow = "tunnel: polder-vxlan"

// isWantedTunnel compares the device with what is wanted, as the library reads it.
func isWantedTunnel(t *testing.T, ns *testnet.NS, want *route.TunnelDevice) {
	t.Helper()
	l, ok := linkOf(t, ns, want.Name).(*netlink.Vxlan)
	if !ok {
		t.Fatal("it is no VXLAN device")
	}
	a := l.Attrs()
	if !l.FlowBased || l.Port != int(want.Port) || l.Learning || a.MTU != want.MTU ||
		a.HardwareAddr.String() != net.HardwareAddr(want.MAC[:]).String() {
		t.Errorf("device is %+v", l)
	}
	if flags := uint32(unix.IFF_UP | unix.IFF_NOARP); a.RawFlags&flags != flags {
		t.Errorf("flags are %#x", a.RawFlags)
	}
	in(t, ns, func() error {
		held, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if len(held) > 0 {
			t.Errorf("it has addresses %v", held)
		}
		return err
	})
}

func TestTheTunnelDeviceIsMadeOnceAndDeletedWhenUnwanted(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	changes, err := k.SyncTunnel(aTunnel())
	wantChanges(t, changes, err, "add "+tunnelRow)
	isWantedTunnel(t, ns, aTunnel())
	index, err := k.Tunnel()
	if err != nil || index != linkOf(t, ns, route.TunnelName).Attrs().Index {
		t.Errorf("index is %d, %v", index, err)
	}
	changes, err = k.SyncTunnel(aTunnel())
	wantChanges(t, changes, err)
	changes, err = k.SyncTunnel(nil)
	wantChanges(t, changes, err, "delete "+tunnelRow)
	changes, err = k.SyncTunnel(nil)
	wantChanges(t, changes, err)
	if index, err := k.Tunnel(); err != nil || index != 0 {
		t.Errorf("index is %d, %v", index, err)
	}
}

func TestATunnelDeviceThatIsWrongIsPutRight(t *testing.T) {
	alter := func(do func(l netlink.Link) error) func(t *testing.T, ns *testnet.NS) error {
		return func(t *testing.T, ns *testnet.NS) error { return do(linkOf(t, ns, route.TunnelName)) }
	}
	remake := func(l netlink.Link) func(t *testing.T, ns *testnet.NS) error {
		return func(t *testing.T, ns *testnet.NS) error {
			if err := netlink.LinkDel(linkOf(t, ns, route.TunnelName)); err != nil {
				return err
			}
			l.Attrs().Name = route.TunnelName
			return netlink.LinkAdd(l)
		}
	}
	for name, c := range map[string]struct {
		hand func(t *testing.T, ns *testnet.NS) error
		want string
		same bool // the device stays the same one
	}{
		"deleted":           {alter(netlink.LinkDel), "add", false},
		"another MTU":       {alter(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) }), "replace", true},
		"down":              {alter(netlink.LinkSetDown), "replace", true},
		"with ARP":          {alter(netlink.LinkSetARPOn), "replace", true},
		"another MAC":       {alter(func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1}) }), "replace", true},
		"another port":      {remake(&netlink.Vxlan{FlowBased: true, Port: 8472}), "replace", false},
		"one network alone": {remake(&netlink.Vxlan{VxlanId: 7, Port: 4789}), "replace", false},
		"learning":          {remake(&netlink.Vxlan{FlowBased: true, Port: 4789, Learning: true}), "replace", false},
		"no tunnel at all":  {remake(&netlink.Veth{PeerName: "far0"}), "replace", false},
	} {
		t.Run(name, func(t *testing.T) {
			ns := testnet.New(t)
			k := open(t, ns)
			if _, err := k.SyncTunnel(aTunnel()); err != nil {
				t.Fatal(err)
			}
			before := linkOf(t, ns, route.TunnelName).Attrs().Index
			in(t, ns, func() error { return c.hand(t, ns) })
			changes, err := k.SyncTunnel(aTunnel())
			wantChanges(t, changes, err, c.want+" "+tunnelRow)
			isWantedTunnel(t, ns, aTunnel())
			if same := linkOf(t, ns, route.TunnelName).Attrs().Index == before; same != c.same {
				t.Errorf("the same device: %v", same)
			}
			changes, err = k.SyncTunnel(aTunnel())
			wantChanges(t, changes, err)
		})
	}
}

func TestATunnelFollowsWhatIsWanted(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	want := aTunnel()
	for _, change := range []func(){
		func() {}, func() { want.MTU = 8950 }, func() { want.MTU = 1280 }, func() { want.Port = 4790 }, func() { want.MAC[5] = 9 },
	} {
		change()
		if _, err := k.SyncTunnel(want); err != nil {
			t.Fatal(err)
		}
		isWantedTunnel(t, ns, want)
	}
}

func TestAPortThatSomeoneElseHasIsAnError(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	in(t, ns, func() error {
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, VxlanId: 1, Port: 4789})
	})
	ns.Up("flannel.1")
	for range 2 {
		if _, err := k.SyncTunnel(aTunnel()); err == nil {
			t.Error("no error")
		} else {
			wantError(t, err, unix.EADDRINUSE)
		}
	}
	in(t, ns, func() error { return netlink.LinkDel(linkOf(t, ns, "flannel.1")) })
	if _, err := k.SyncTunnel(aTunnel()); err != nil {
		t.Fatal(err)
	}
	isWantedTunnel(t, ns, aTunnel())
}

func TestADeviceOfThatNameThatIsNoTunnelIsNotTakenForOne(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	device(t, ns, route.TunnelName)
	if index, err := k.Tunnel(); err != nil || index != 0 {
		t.Errorf("index is %d, %v", index, err)
	}
}
