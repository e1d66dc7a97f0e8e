package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/testnet"
)

func TestGarbageAmongTheReservationsCostsNoAddressForEver(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28"))
	n.stop()
	junk := map[netip.Addr]datapath.Reservation{
		{}:                                  {Freed: 1},
		netip.MustParseAddr("192.0.2.1"):    {Network: "elsewhere", ContainerID: "x", Ifname: "eth0"},
		netip.MustParseAddr("10.0.1.0"):     {Freed: 1<<63 - 1}, // never given
		netip.MustParseAddr("10.0.1.3"):     {Freed: 1<<63 - 1}, // freed in three hundred years
		netip.MustParseAddr("10.0.1.4"):     {Freed: -1},
		netip.MustParseAddr("10.0.1.5"):     {Network: "\xff\xfe", ContainerID: strings.Repeat("x", 136), Ifname: "\x01"},
		netip.MustParseAddr("2001:db8::9"):  {Freed: 7},
		netip.MustParseAddr("10.0.1.15"):    {Network: "polder", ContainerID: "broadcast", Ifname: "eth0"},
		netip.MustParseAddr("203.0.113.17"): {Network: "polder", ContainerID: "moved", Ifname: "eth0"},
	}
	n.onReserved(func(d *datapath.Datapath) error {
		for a, r := range junk {
			if err := d.PutReservation(a, r); err != nil {
				return err
			}
		}
		return nil
	})
	n.start()
	c := n.counts()
	if c.Used != 1 || c.Used+c.Free+c.Cooling != 13 { // 10.0.1.5 is somebody's
		t.Errorf("%+v", c)
	}
	for a, r := range n.onReserved(nothing) {
		now, err := datapath.SinceBoot()
		if err != nil {
			t.Fatal(err)
		}
		if r.Freed > now {
			t.Errorf("%s cools until %s, and now is %s", a, r.Freed, now)
		}
	}
	given := map[netip.Addr]bool{netip.MustParseAddr("10.0.1.5"): true}
	for i := range 12 {
		pod := testnet.New(t)
		a := n.add(fmt.Sprint("p", i), pod.File()).Addresses[0].Prefix.Addr()
		if given[a] {
			t.Fatalf("%s was given twice", a)
		}
		given[a] = true
	}
	more := testnet.New(t)
	n.refused(api.CodeTryAgain, api.Request{Verb: api.Add, Attachment: at("more")}, more.File())
	n.must(api.Request{Verb: api.GC, Attachment: api.Attachment{Network: "polder"}, IPAM: true, Valid: []api.Attachment{}}, nil)
	n.onReserved(func(d *datapath.Datapath) error { return d.DeleteReservation(netip.MustParseAddr("10.0.1.5")) })
}

// foreignMap pins a map that is none of ours, with an entry.
func foreignMap(t *testing.T, pin string) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err == nil {
		defer m.Close()
		err = m.Pin(pin)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAForeignMapInThePlaceOfOursStopsTheAgentWithOneLineAndHarmsNoPod(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28"))
	pod := testnet.New(t)
	n.add("a", pod.File())
	n.stop()
	pins, err := filepath.Glob(filepath.Join(n.cfg.Pins, "maps", "*"))
	if err != nil || len(pins) < 5 {
		t.Fatalf("%v, %v", pins, err)
	}
	for _, pin := range pins {
		aside := pin + "_aside"
		if err := os.Rename(pin, aside); err != nil {
			t.Fatal(err)
		}
		foreignMap(t, pin)
		a, err := New(n.cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			a.kernel.Close()
			a.datapath.Close()
			t.Errorf("%s: a foreign map was taken for ours", pin)
		} else if name, _, _ := strings.Cut(filepath.Base(pin), "_"); !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the error does not name it in one line: %v", pin, err)
		}
		if err := os.Rename(aside, pin); err != nil {
			t.Fatal(err)
		}
	}
	n.start()
	if r := n.report(); len(r.Pods) != 1 || r.Addresses[0].Used != 1 {
		t.Errorf("%+v", r)
	}
}

func TestUnknownPinsAreRemoved(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28"))
	n.stop()
	strange := []string{"maps/endpoints_00000000", "maps/junk", "links/from_pod:99999", "links/junk"}
	for _, pin := range strange {
		foreignMap(t, filepath.Join(n.cfg.Pins, pin))
	}
	n.start()
	for _, pin := range strange {
		n.eventually(pin+" is gone", func() bool {
			_, err := os.Lstat(filepath.Join(n.cfg.Pins, pin))
			return errors.Is(err, os.ErrNotExist)
		})
	}
	n.must(api.Request{Verb: api.Status}, nil)
}

func TestWhatAnAgentThatWasKilledWhileItInstalledLeftIsRemoved(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28"))
	n.stop()
	for _, path := range []string{filepath.Join(n.cfg.CNIBin, ".polder-cni.new"), filepath.Join(n.cfg.CNINet, ".05-polder.conflist.new")} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.start()
	for _, dir := range []string{n.cfg.CNIBin, n.cfg.CNINet} {
		n.eventually("no half file is in "+dir, func() bool {
			half, err := filepath.Glob(filepath.Join(dir, ".*"))
			return err == nil && len(half) == 0
		})
	}
}

// After a reboot the kernel knows nothing, and on the disk is what was there before.
func TestAfterARebootEveryAddressIsFreeWhateverFilesAreLeft(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28", "fd00:1::/64"))
	for i := range 3 {
		pod := testnet.New(t)
		n.add(fmt.Sprint("p", i), pod.File())
		defer pod.Close()
	}
	n.must(api.Request{Verb: api.Reserve, Attachment: at("held")}, nil)
	n.del("p0")
	n.stop()
	for _, l := range podLinks(t) {
		if err := netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(n.cfg.Pins); err != nil {
		t.Fatal(err)
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(n.cfg.State, "agent.sock")})
	if err != nil {
		t.Fatal(err)
	}
	socket.SetUnlinkOnClose(false)
	socket.Close()
	for _, stale := range []string{filepath.Join(n.cfg.State, "lock"), filepath.Join(n.cfg.State, "junk"), filepath.Join(n.cfg.CNINet, conflistName)} {
		if err := os.WriteFile(stale, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.start()
	n.empty(13)
	if c := n.counts(); c.Free != 13 {
		t.Errorf("%+v", c)
	}
	if body, err := os.ReadFile(filepath.Join(n.cfg.CNINet, conflistName)); err != nil || !strings.Contains(string(body), pluginName) {
		t.Errorf("the configuration is %s, %v", body, err)
	}
}
