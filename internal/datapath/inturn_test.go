package datapath

import (
	"fmt"
	"testing"

	"github.com/polder-net/polder/internal/desired"
)

func TestEveryFrameHasItsTurn(t *testing.T) {
	c := newCourt(t, openTest(t))
	c.reset()
	c.isolate("10.0.1.3", closed, 0)
	var open, shut [][]byte
	for i := range 10 {
		open = append(open, c.f.packet(fmt.Sprintf("10.0.1.3:%d", i+1), "10.0.2.7:80").bytes())
		shut = append(shut, c.f.packet("10.0.2.7:80", fmt.Sprintf("10.0.1.3:%d", i+1)).bytes())
	}
	c.ns.Do(func() {
		turns, err := c.InTurn(desired.FromPod, c.b, open)
		if err != nil {
			t.Fatal(err)
		}
		defer turns.Close()
		if _, err := turns.Run(1000, "to native"); err != nil { // far more than a TTL allows of one frame
			t.Error(err)
		}
		if _, err := turns.Nothing(1000); err != nil {
			t.Error(err)
		}
		in, err := c.InTurn(desired.FromNetwork, lo, shut)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if _, err := in.Run(1000, toIngress); err != nil {
			t.Error(err)
		}
		if _, err := in.Run(1000, "to pod"); err == nil {
			t.Error("frames that do not pass are said to pass")
		}
	})
}
