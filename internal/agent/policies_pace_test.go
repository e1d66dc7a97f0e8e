package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/testnet"
)

// TestAChangeOfPoliciesIsSoonInForce has a full node, and as many changes as a busy cluster has.
func TestAChangeOfPoliciesIsSoonInForce(t *testing.T) {
	const pods, changes, pause = 110, 90, time.Second / 30
	if testing.Short() {
		t.Skip("it makes a node full of pods")
	}
	world := newTown("10.0.1.0/24")
	for i := range pods {
		world = world.pod(fmt.Sprint("p", i))
	}
	n := newNode(t, world.Snapshot, judged)
	addrs := make([]netip.Addr, pods)
	for i := range pods {
		addrs[i] = first(n.add(fmt.Sprint("p", i), testnet.New(t).File()))
	}
	d, err := datapath.Open(n.cfg.Pins, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var took []time.Duration
	for i := range changes {
		began, k := time.Now(), i/2%pods
		app := fmt.Sprint("p", k)
		want := i%2 == 0
		if want {
			world = world.isolate(app, fmt.Sprint("p", (k+1)%pods))
		} else {
			world = world.release(app)
		}
		n.source.say(world.Snapshot)
		for {
			e, _, err := d.Endpoint(addrs[k])
			if err != nil {
				t.Fatal(err)
			}
			if (e.Ingress != uint64(policy.Open)) == want {
				break
			}
			if time.Since(began) > 5*time.Second {
				t.Fatalf("change %d is not in force", i)
			}
			time.Sleep(200 * time.Microsecond)
		}
		took = append(took, time.Since(began))
		time.Sleep(pause)
	}
	slices.Sort(took)
	t.Logf("in force after %s, of 99 in 100 after %s", took[len(took)/2], took[len(took)*99/100]) // make bench has the bar
}
