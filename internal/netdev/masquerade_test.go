package netdev

import (
	"net/netip"
	"os/exec"
	"testing"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/testnet"
)

func TestMasq(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	w := desired.Masquerade{
		From:   []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:1::/64")},
		Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("10.1.1.0/24"), netip.MustParsePrefix("192.168.1.1/32"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fd00:1::/56")},
	}
	for range 2 {
		ch, err := k.syncMasquerade(w)
		t.Log(ch, err)
	}
	ns.Do(func() {
		out, _ := exec.Command("sh", "-c", "nft list ruleset").CombinedOutput()
		t.Log(string(out))
	})
	ch, err := k.syncMasquerade(desired.Masquerade{})
	t.Log(ch, err)
	ch, err = k.syncMasquerade(desired.Masquerade{})
	t.Log(ch, err)
}
