package datapath

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

func TestHostPortsOutliveTheAgent(t *testing.T) {
	d := openTest(t)
	v4, v6 := netip.MustParseAddrPort("10.0.1.7:8080"), netip.MustParseAddrPort("[fd00:1::7]:8080")
	want := map[service.Frontend]HostPort{
		{Addr: netip.IPv4Unspecified(), Port: 80, Protocol: cluster.TCP}:              {v4, "pdr0123456789a"},
		{Addr: netip.IPv6Unspecified(), Port: 80, Protocol: cluster.TCP}:              {v6, "pdr0123456789a"},
		{Addr: netip.MustParseAddr("127.0.0.1"), Port: 65535, Protocol: cluster.UDP}:  {v4, "fifteen-letters"},
		{Addr: netip.MustParseAddr("2001:db8::1"), Port: 1, Protocol: cluster.SCTP}:   {v6, "pdrb"},
		{Addr: netip.MustParseAddr("192.0.2.1"), Port: 30080, Protocol: cluster.SCTP}: {v4, "pdrc"},
	}
	for f, h := range want {
		if err := d.PutHostPort(f, h); err != nil {
			t.Fatal(err)
		}
	}
	d.Close()
	again := reopen(t, d.dir)
	have, err := again.HostPorts()
	if err != nil || !reflect.DeepEqual(have, want) {
		t.Fatalf("%v, %v", have, err)
	}
	for f, h := range want {
		if got, ok, err := again.HostPort(f); err != nil || !ok || got != h {
			t.Errorf("%s: %v, %v, %v", f, got, ok, err)
		}
		for range 2 { // the second finds nothing
			if err := again.DeleteHostPort(f); err != nil {
				t.Error(err)
			}
		}
		if _, ok, err := again.HostPort(f); ok || err != nil {
			t.Errorf("%s is still there, %v", f, err)
		}
		if err := again.PutHostPort(f, HostPort{v4, strings.Repeat("l", 17)}); err == nil {
			t.Error("a name that does not fit was cut")
		}
	}
}

// As reservations, host ports cannot be compiled anew.
func TestTheLayoutOfHostPortsIsFrozen(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := layout(spec.Maps[bpfMapHostports]), frozenHostPorts; got != want {
		t.Fatalf("layout of hostports is %s, was %s", got, want)
	}
}

const frozenHostPorts = "73750449"
