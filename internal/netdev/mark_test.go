package netdev

import (
	"net/netip"
	"strings"
	"testing"
)

// The mark tells whether the table is as wanted. Did it differ between processes, every restart would write the
// table anew.
func TestTheMarkOfTheMasqueradeRuleIsTheSameInEveryProcess(t *testing.T) {
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244::/64")}
	for _, c := range []struct {
		ipv4 bool
		want string
	}{{true, "a4d7d8db77debea6"}, {false, "da556713f0705bb1"}} {
		f := masqueradeFamily{c.ipv4, ranges(prefixes, c.ipv4), ranges(prefixes, c.ipv4)}
		if got := f.mark(); !strings.HasSuffix(got, ", "+c.want) {
			t.Errorf("mark is %q, want it to end in %s", got, c.want)
		}
	}
}
