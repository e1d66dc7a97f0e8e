package lab_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// The short run is part of every test run; docs/testing.md says how to do the full one.
var (
	cniFull = flag.Bool("cni.full", false, "kill the agent at every step of every verb, and do 100 rounds of parallel verbs")
	cniSeed = flag.Uint64("cni.seed", 0, "seed of the steps and instants that are picked; 0: a new one")
)

func cniRandom(t *testing.T) *rand.Rand {
	seed := *cniSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -cni.seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestAnAgentKilledAtAnyStepLosesAndDoublesNothing(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	n := newRuntimeNode(t, c.Nodes()[0])
	random := cniRandom(t)
	for _, v := range []crashVerb{crashAdd{}, crashDel{}, crashReserve{}, crashRelease{}} {
		t.Run(fmt.Sprintf("%T", v)[len("lab_test.crash"):], func(t *testing.T) { n.with(t).sweep(v, random) })
	}
	t.Run("Add of a pod with a limit", func(t *testing.T) {
		n := n.with(t)
		n.shaped = true
		n.sweep(crashAdd{}, random)
	})
	for _, v := range []crashVerb{crashAdd{}, crashDel{}} {
		t.Run(fmt.Sprintf("%T of a pod with host ports", v)[len("lab_test.crash"):], func(t *testing.T) {
			n := n.with(t)
			n.ports = true
			n.sweep(v, random)
		})
	}
	t.Run("Start", func(t *testing.T) { n.with(t).killWhileStarting(random) })
	t.Run("the plugin", func(t *testing.T) { n.with(t).killPlugin(random) })
}

// crashVerb is something that an agent does when it is killed: what comes before, what it does, and what must hold
// once the next agent serves. It leaves nothing behind.
type crashVerb interface {
	before(n *runtimeNode, c container)
	act(n *runtimeNode, c container)
	after(n *runtimeNode, c container, step int)
	picks() int // steps of the short run
}

// sweep kills the agent at its first, second, third … change while it carries out a verb.
func (n *runtimeNode) sweep(v crashVerb, random *rand.Rand) {
	c := newContainer(n.t, "crash")
	if n.shaped {
		c = limited(c)
	}
	if n.ports {
		c = published(c)
	}
	steps := n.crash(v, c, 0) // never: it counts
	for range 2 {             // the fewest: the agent may look after the node meanwhile
		steps = min(steps, n.crash(v, c, 0))
	}
	if steps < 2 {
		n.t.Fatalf("the agent made %d changes", steps)
	}
	stride := 1
	if !*cniFull {
		stride = (steps + v.picks() - 1) / v.picks()
	}
	kills := 0
	for step := 1 + random.IntN(stride); step <= steps; step += stride {
		n.crash(v, c, step)
		kills++
	}
	n.t.Logf("killed at %d of %d changes", kills, steps)
}

func (n *runtimeNode) crash(v crashVerb, c container, step int) (steps int) {
	n.t.Helper()
	v.before(n, c)
	steps, err := killAt(n.AgentPID(), step, func() { v.act(n, c) })
	if err != nil {
		n.t.Fatal(err)
	}
	n.ready() // whatever is half done makes the node no worse
	v.after(n, c, step)
	n.nothingLeft()
	if n.t.Failed() {
		n.t.Fatalf("after a kill at change %d", step)
	}
	return steps
}

type crashAdd struct{}

func (crashAdd) picks() int                      { return 9 }
func (crashAdd) before(*runtimeNode, container)  {}
func (crashAdd) act(n *runtimeNode, c container) { n.tryAdd(n.installed(), c) }
func (crashAdd) after(n *runtimeNode, c container, step int) {
	list := n.installed()
	switch step % 3 {
	case 0: // as the specification wants it
		n.del(list, c)
	case 1: // the runtime has forgotten all about it
		if err := n.gc(list); err != nil {
			n.t.Error(err)
		}
	case 2: // it just tries again
		other := newContainer(n.t, "bystander")
		r := n.add(list, other)
		again, err := n.tryAdd(list, c)
		if err != nil && code(err) != 101 {
			n.t.Errorf("ADD again: %v", err)
		}
		if err == nil {
			if err := n.check(list, c); err != nil {
				n.t.Errorf("CHECK after ADD again: %v", err)
			}
			if addresses(again)[0] == addresses(r)[0] {
				n.t.Errorf("two pods have %v", addresses(r))
			}
		}
		if err := n.check(list, other); err != nil {
			n.t.Errorf("CHECK of another pod: %v", err)
		}
		n.del(list, other)
		n.del(list, c)
	}
	n.add(list, c) // and all works again
	if err := n.check(list, c); err != nil {
		n.t.Errorf("CHECK after DEL and ADD: %v", err)
	}
	n.del(list, c)
}

type crashDel struct{}

func (crashDel) picks() int                         { return 6 }
func (crashDel) before(n *runtimeNode, c container) { n.add(n.installed(), c) }
func (crashDel) act(n *runtimeNode, c container)    { n.tryDel(n.installed(), c) }
func (crashDel) after(n *runtimeNode, c container, step int) {
	list := n.installed()
	if pods := reportOf(n.t, n.Node).Pods; len(pods) > 0 { // then wholly
		if err := n.check(list, c); err != nil && !strings.Contains(err.Error(), "prevResult") {
			n.t.Errorf("half a pod is left: %v", err)
		}
	}
	if step%2 == 0 {
		n.del(list, c)
	} else if err := n.gc(list); err != nil {
		n.t.Error(err)
	}
}

type crashReserve struct{}

func (crashReserve) picks() int                      { return 3 }
func (crashReserve) before(*runtimeNode, container)  {}
func (crashReserve) act(n *runtimeNode, c container) { n.ipam("ADD", "ptp", c.ContainerID) }
func (crashReserve) after(n *runtimeNode, c container, step int) {
	if step%2 == 0 {
		first, err := n.ipam("ADD", "ptp", c.ContainerID)
		if err != nil || len(first.IPs) != 2 {
			n.t.Errorf("ADD again: %+v, %v", first, err)
		}
		second, err := n.ipam("ADD", "ptp", c.ContainerID)
		if err != nil || fmt.Sprint(second.IPs) != fmt.Sprint(first.IPs) {
			n.t.Errorf("ADD a third time: %+v, %v", second, err)
		}
	}
	if _, err := n.ipam("DEL", "ptp", c.ContainerID); err != nil {
		n.t.Error(err)
	}
}

type crashRelease struct{}

func (crashRelease) picks() int { return 3 }
func (crashRelease) before(n *runtimeNode, c container) {
	if _, err := n.ipam("ADD", "ptp", c.ContainerID); err != nil {
		n.t.Fatal(err)
	}
}
func (crashRelease) act(n *runtimeNode, c container) { n.ipam("DEL", "ptp", c.ContainerID) }
func (crashRelease) after(n *runtimeNode, c container, _ int) {
	if _, err := n.ipam("DEL", "ptp", c.ContainerID); err != nil {
		n.t.Error(err)
	}
}

// killWhileStarting kills agents at random instants of their start, with a pod, a reservation and a cooling address.
func (n *runtimeNode) killWhileStarting(random *rand.Rand) {
	list, stays, goes := n.installed(), newContainer(n.t, "stays"), newContainer(n.t, "goes")
	n.add(list, stays)
	freed := addresses(n.add(list, goes))[0]
	n.del(list, goes)
	if _, err := n.ipam("ADD", "ptp", "held"); err != nil {
		n.t.Fatal(err)
	}
	kills := 6
	if *cniFull {
		kills = 60
	}
	for range kills {
		n.KillAgent() // none may run at this instant
		time.Sleep(200*time.Millisecond + time.Duration(random.IntN(600))*time.Millisecond)
	}
	n.ready()
	if err := n.check(list, stays); err != nil {
		n.t.Errorf("the pod that stayed: %v", err)
	}
	if p := n.pool(); p.Used != 2 {
		n.t.Errorf("addresses are %+v", p)
	}
	if again := addresses(n.add(list, goes))[0]; again == freed {
		n.t.Errorf("%s was given again at once", again)
	}
	n.del(list, goes)
	n.del(list, stays)
	if _, err := n.ipam("DEL", "ptp", "held"); err != nil {
		n.t.Error(err)
	}
	n.nothingLeft()
}

// killPlugin kills the plugin at random instants of its ADD, as a runtime does that has waited for too long.
func (n *runtimeNode) killPlugin(random *rand.Rand) {
	list, c := n.installed(), newContainer(n.t, "impatient")
	kills := 10
	if *cniFull {
		kills = 200
	}
	for range kills {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(15_000))*time.Microsecond)
		cmd := n.Command(ctx, filepath.Join(cniBin, "polder-cni"))
		cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=impatient", "CNI_IFNAME=eth0", "CNI_NETNS="+c.NetNS, "CNI_PATH="+cniBin)
		cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0","name":"polder","type":"polder-cni"}`)
		err := cmd.Run()
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "killed") {
			n.t.Errorf("ADD: %v", err)
		}
		n.del(list, c)
		n.nothingLeft()
	}
}
