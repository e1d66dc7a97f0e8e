package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
)

func TestRegionsAreCalledByTheLargestBlocks(t *testing.T) {
	blocks := map[netip.Prefix]bool{}
	for _, text := range []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "203.0.113.0/31", "203.0.113.0/32", "203.0.113.1/32", "2001:db8::/32"} {
		blocks[netip.MustParsePrefix(text)] = true
	}
	taken := map[netip.Addr]bool{addr("10.2.0.1"): true}
	d := &Difference{regions: regionsOf(blocks, taken)}
	for _, c := range []struct{ regions, want string }{
		{"0.0.0.0/0", "all IPv4 outside but 10.0.0.0/8 and 203.0.113.0/31"},
		{"0.0.0.0/0 203.0.113.0/32", "all IPv4 outside but 10.0.0.0/8 and 203.0.113.1/32"},
		{"0.0.0.0/0 203.0.113.0/32 203.0.113.1/32 10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 10.2.0.0/16", "all IPv4 outside"},
		{"0.0.0.0/0 203.0.113.0/32 203.0.113.1/32 10.0.0.0/8 10.1.0.0/16 10.1.2.0/24 10.2.0.0/16 ::/0 2001:db8::/32", "all outside"},
		{"203.0.113.0/32 203.0.113.1/32", "203.0.113.0/31"},
		{"10.0.0.0/8 10.1.2.0/24", "10.0.0.0/8 but 10.1.0.0/16 and 10.2.0.0/16, 10.1.2.0/24"},
		{"10.1.0.0/16 10.1.2.0/24", "10.1.0.0/16"},
		{"10.0.0.0/8 10.1.0.0/16 10.2.0.0/16", "10.0.0.0/8 but 10.1.2.0/24"},
		{"2001:db8::/32", "2001:db8::/32"},
	} {
		var places []Place
		for _, text := range strings.Fields(c.regions) {
			places = append(places, Place{Name: text, Block: netip.MustParsePrefix(text)})
		}
		if got := d.Words(places, nil); got != c.want {
			t.Errorf("%s: %q, want %q", c.regions, got, c.want)
		}
	}
}

func TestPortsAreCalledInFewWords(t *testing.T) {
	tcp := func(first, last uint16) Ports { return Ports{cluster.TCP, first, last} }
	udp, sctp, icmp := Ports{cluster.UDP, 1, lastPort}, Ports{cluster.SCTP, 1, lastPort}, Ports{Protocol: ICMP}
	for _, c := range []struct {
		of   []Ports
		want string
	}{
		{[]Ports{tcp(80, 80)}, "80/TCP"},
		{[]Ports{tcp(80, 80), tcp(81, 90)}, "80-90/TCP"},
		{[]Ports{tcp(1, 79), tcp(81, lastPort)}, "all TCP but 80"},
		{[]Ports{tcp(1, 79), tcp(91, 99), tcp(200, lastPort)}, "all TCP but 80-90 and 100-199"},
		{[]Ports{tcp(1, 79)}, "1-79/TCP"},
		{[]Ports{icmp, udp, tcp(1, 5), tcp(6, lastPort)}, "all TCP, all UDP, ICMP"},
		{[]Ports{icmp, sctp, udp, tcp(1, lastPort)}, "everything"},
	} {
		if got := PortsText(c.of); got != c.want {
			t.Errorf("%v: %q, want %q", c.of, got, c.want)
		}
	}
}

// Each region's address is in no other region, and nobody's.
func TestARegionsAddressIsInItAlone(t *testing.T) {
	blocks := map[netip.Prefix]bool{}
	for _, text := range []string{
		"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "203.0.113.0/28", "127.0.0.0/8", "126.0.0.0/7", "224.0.0.0/4", "10.0.0.0/30", "10.0.0.0/31",
		"255.255.255.254/31", "255.255.255.255/32", "2001:db8::/32", "2001:db8::/127", "::ffff:10.0.0.0/104", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
	} {
		blocks[netip.MustParsePrefix(text)] = true
	}
	taken := map[netip.Addr]bool{addr("10.0.0.2"): true, addr("10.0.0.3"): true, addr("203.0.113.16"): true, addr("203.0.113.17"): true}
	without := map[string]bool{"127.0.0.0/8": true, "10.0.0.0/30": true, "::ffff:10.0.0.0/104": true}
	b := &both{regions: regionsOf(blocks, taken)}
	for i, r := range b.regions {
		a := r.sample
		switch {
		case !a.IsValid() && !without[r.block.String()]:
			t.Errorf("%s has no address", r.block)
		case a.IsValid() && (without[r.block.String()] || b.regionAt(a) != i || taken[a] || a.IsLoopback() || a.IsUnspecified()):
			t.Errorf("%s has %s", r.block, a)
		}
	}
}
