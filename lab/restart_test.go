package lab_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// The short run is part of every test run; docs/testing.md says how to do the full one.
var (
	restartKills    = flag.Int("restart.kills", 20, "how often agents are killed under traffic")
	restartUpgrades = flag.Int("restart.upgrades", 4, "how often agents are upgraded under traffic")
	restartSeed     = flag.Uint64("restart.seed", 0, "seed of the random instants; 0: a new one")
)

// full says whether the run is more than the short one: then it carries the full load and judges gaps.
func full() bool { return *restartKills >= 200 }

func TestKillingAndUpgradingAgentsCostsNoConnection(t *testing.T) {
	w := newWorld(t)
	others := otherAgents(t)
	seed := restartSeedOf(t)
	before := w.fresh(t)

	run, err := traffic.Start(w.paths(), traffic.Control(t), restartLoad(len(w.paths())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run.Stop() })
	churn := w.churn(t)
	broken := w.disturb(seed, append(others, build{program: w.Bin() + "/polder-agent"}))
	churn.stop()
	report, err := run.Stop()
	if err != nil {
		t.Fatal(err)
	}

	t.Logf("%d kills, %d upgrades; %d pods came and went meanwhile, %d requests were told to try again\n%s",
		*restartKills, *restartUpgrades, churn.pods.Load(), churn.retries.Load(), report)
	judge(t, report)
	if err := w.DeletePod(t.Context(), churn.door.Name); err != nil {
		t.Fatal(err)
	}
	if broken != nil {
		t.Fatal(broken) // now that it is known what became of the traffic
	}
	w.settled(t)
	w.asBefore(t, before)
}

// restartSeedOf returns the seed of the random instants, and prints it.
func restartSeedOf(t *testing.T) uint64 {
	t.Helper()
	seed := *restartSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -restart.seed=%d", seed)
	return seed
}

// restartLoad is the load of the short run or, on all paths together, that of the full one.
func restartLoad(paths int) traffic.Load {
	if full() {
		return traffic.Full(paths)
	}
	return traffic.Load{Flows: 1, Every: 20 * time.Millisecond, Connects: 5, Datagrams: 50}
}

// judge wants nothing to be lost, and in the full run no gaps.
func judge(t *testing.T, report traffic.Report) {
	t.Helper()
	for _, lost := range report.Lost() {
		t.Error(lost)
	}
	for _, gap := range report.Gaps() {
		if full() {
			t.Error(gap)
		} else {
			t.Log(gap)
		}
	}
}

// disturb carries kills and upgrades out at random instants, on all nodes at a time. Between them it now and then
// lets a node settle, and compares its maps with the model.
func (w *world) disturb(seed uint64, agents []build) error {
	random := rand.New(rand.NewPCG(seed, seed))
	todo := make([]build, *restartKills+*restartUpgrades) // the zero one: kill
	for i := range *restartUpgrades {
		todo[i] = agents[i%len(agents)]
	}
	random.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
	nodes := w.Nodes()
	var all errgroup.Group
	for i, n := range nodes {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() error {
			for j := i; j < len(todo); j += len(nodes) {
				if err := w.disturbOne(n, todo[j], random); err != nil {
					return fmt.Errorf("%s: %w", n.Name, err)
				}
			}
			return nil
		})
	}
	return all.Wait()
}

func (w *world) disturbOne(n *lab.Node, next build, random *rand.Rand) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// From the instant of its start to well after it is ready.
	time.Sleep(time.Duration(random.Int64N(int64(1200 * time.Millisecond))))
	old := n.AgentPID()
	if next.program != "" {
		if err := n.SetAgent(next.program); err != nil {
			return err
		}
	}
	var err error
	if next.program != "" && random.IntN(2) == 0 {
		err = n.StopAgent()
	} else {
		err = n.KillAgent()
	}
	for err != nil && ctx.Err() == nil { // it has not started yet
		time.Sleep(5 * time.Millisecond)
		err = n.KillAgent()
	}
	for err == nil && (n.AgentPID() == 0 || n.AgentPID() == old) {
		time.Sleep(5 * time.Millisecond)
		err = ctx.Err()
	}
	if err != nil || random.IntN(3) > 0 {
		return err
	}
	return w.checkNode(ctx, n, next.version)
}

// checkNode waits for the new agent and wants what R1 says: the maps are the model's, and a sync that comes later
// finds nothing to change. version is the agent's that it must be; empty: any.
func (w *world) checkNode(ctx context.Context, n *lab.Node, version string) error {
	if err := n.WaitReady(ctx); err != nil {
		return err
	}
	var err error
	for ctx.Err() == nil { // pods come and go meanwhile
		if err = w.modelled(n); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("maps differ from the model: %w", err)
	}
	r, err := askReport(ctx, n)
	if err != nil {
		return err
	}
	if len(r.Repairs) > 0 {
		return fmt.Errorf("the second sync repaired what nobody broke: %+v", r.Repairs)
	}
	if version != "" && r.Version != version {
		return fmt.Errorf("the agent is %s, want %s", r.Version, version)
	}
	return nil
}

// churn is pods that come and go.
type churn struct {
	once          sync.Once
	done          chan struct{}
	door          *lab.Pod // what they connect to; no other traffic goes there
	running       sync.WaitGroup
	pods, retries atomic.Int64
}

// churn creates and deletes a pod again and again on every node. What the plugin refuses with "try again" is tried
// again, as a container runtime does. Each pod opens a connection as soon as it is there.
func (w *world) churn(t *testing.T) *churn {
	t.Helper()
	c := &churn{done: make(chan struct{})}
	c.door = create(t, w.Cluster, lab.PodOptions{Name: "door", Node: w.near.Name})
	port := echoServer(t, c.door)
	t.Cleanup(c.stop)
	for i, n := range w.Nodes() {
		c.running.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-c.done:
					return
				case <-time.After(100 * time.Millisecond):
				}
				if err := c.one(w, n, fmt.Sprintf("churn-%d-%d", i, j), port); err != nil {
					t.Errorf("churn on %s: %v", n.Name, err)
					return
				}
			}
		})
	}
	return c
}

func (c *churn) stop() {
	c.once.Do(func() { close(c.done) })
	c.running.Wait()
}

func (c *churn) one(w *world, n *lab.Node, name string, port int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var pod *lab.Pod
	err := c.insist(ctx, func() (err error) {
		if _, there := w.Pod(name); there == nil { // created, but not connected, and not to be deleted just then
			if err := w.DeletePod(ctx, name); err != nil {
				return err
			}
		}
		pod, err = w.CreatePod(ctx, lab.PodOptions{Name: name, Node: n.Name})
		return err
	})
	if err != nil {
		return err
	}
	c.pods.Add(1)
	for i, a := range pod.Addresses {
		if err := echoes(pod.Place, a, c.door.Addresses[i], port); err != nil {
			return fmt.Errorf("new pod %s cannot connect: %w", name, err)
		}
	}
	return c.insist(ctx, func() error { return w.DeletePod(ctx, name) })
}

// insist does something until the agent is there to do it.
func (c *churn) insist(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || ctx.Err() != nil || !isTryAgain(err) {
			return err
		}
		c.retries.Add(1)
		time.Sleep(100 * time.Millisecond)
	}
}
