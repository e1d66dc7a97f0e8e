package lab_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// tally is who has which address, as the results of ADD say.
type tally struct {
	mu    sync.Mutex
	has   map[netip.Addr]string
	twice []string
}

func (y *tally) add(n *runtimeNode, list *libcni.NetworkConfigList, c container) error {
	r, err := n.tryAdd(list, c)
	if err != nil {
		return fmt.Errorf("ADD %s: %w", c.ContainerID, err)
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, a := range addresses(r) {
		if other, ok := y.has[a]; ok {
			y.twice = append(y.twice, fmt.Sprintf("%s of %s and %s", a, other, c.ContainerID))
		}
		y.has[a] = c.ContainerID
	}
	return nil
}

// del forgets the container's addresses before they can be anybody else's.
func (y *tally) del(n *runtimeNode, list *libcni.NetworkConfigList, c container) error {
	y.mu.Lock()
	for a, id := range y.has {
		if id == c.ContainerID {
			delete(y.has, a)
		}
	}
	y.mu.Unlock()
	if err := n.tryDel(list, c); err != nil {
		return fmt.Errorf("DEL %s: %w", c.ContainerID, err)
	}
	return nil
}

// holds fails the test unless so many pods have an address each, and the addresses add up.
func (y *tally) holds(n *runtimeNode, pods int) {
	n.t.Helper()
	p := n.pool()
	if len(y.twice) > 0 || len(y.has) != 2*pods || p.Used != uint64(pods) || p.Used+p.Free+p.Cooling != 253 {
		n.t.Fatalf("%d pods have %d addresses, twice %v; the agent says %+v", pods, len(y.has), y.twice, p)
	}
}

func TestAHundredVerbsAtOnceNeitherFailNorLeakNorDouble(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	n := newRuntimeNode(t, c.Nodes()[0])
	list, random := n.installed(), cniRandom(t)
	rounds := 3
	if *cniFull {
		rounds = 100
	}
	containers := make([]container, 150)
	for i := range containers {
		containers[i] = newContainer(t, fmt.Sprintf("c%d", i))
	}
	for round := range rounds {
		y := &tally{has: map[netip.Addr]string{}}
		must := func(count int, f func(i int) error) {
			t.Helper()
			if err := parallel(count, f); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		random.Shuffle(len(containers), func(i, j int) { containers[i], containers[j] = containers[j], containers[i] })
		must(100, func(i int) error { return y.add(n, list, containers[i]) })
		y.holds(n, 100)
		mixed := random.Perm(100) // the first fifty go, fifty others come
		must(100, func(i int) error {
			if k := mixed[i]; k >= 50 {
				return y.add(n, list, containers[k+50])
			}
			return y.del(n, list, containers[mixed[i]])
		})
		y.holds(n, 100)
		must(100, func(i int) error { return y.del(n, list, containers[i+50]) })
		y.holds(n, 0)
		n.nothingLeft()
	}
	t.Logf("%d rounds", rounds)
}

// podCIDR gives a node another IPv4 pod CIDR, as its object says.
func (n *runtimeNode) podCIDR(c *lab.Cluster, was, is string) {
	n.t.Helper()
	path := filepath.Join(c.Manifests(), "node-"+n.Name+".yaml")
	body, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	changed := strings.ReplaceAll(string(body), was, is)
	if changed == string(body) {
		n.t.Fatalf("no %s in\n%s", was, body)
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, time.Minute, "the agent follows the Node", func() error {
		if p := n.pool(); p.CIDR.String() != is {
			return fmt.Errorf("its range is %s", p.CIDR)
		}
		return nil
	})
}

func TestASmallRangeGivesAllItsAddressesAndSaysWhenNoneIsLeft(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	n := newRuntimeNode(t, c.Nodes()[0])
	n.podCIDR(c, "10.244.1.0/24", "10.244.1.0/28")
	list := n.installed()
	containers := make([]container, 20)
	for i := range containers {
		containers[i] = newContainer(t, fmt.Sprintf("c%d", i))
	}
	errs := make([]error, len(containers))
	parallel(len(containers), func(i int) error { _, errs[i] = n.tryAdd(list, containers[i]); return nil })
	var have, refused []container
	for i, err := range errs {
		switch {
		case err == nil:
			have = append(have, containers[i])
		case code(err) == 11 && strings.Contains(err.Error(), "no free address in 10.244.1.0/28"):
			refused = append(refused, containers[i])
		default:
			t.Errorf("ADD: %v", err)
		}
	}
	if len(have) != 13 || len(refused) != 7 {
		t.Fatalf("%d ADDs succeeded, %d were refused", len(have), len(refused))
	}
	if err := n.status(list); code(err) != 50 || !strings.Contains(err.Error(), "no free address") {
		t.Errorf("STATUS: %v", err)
	}
	if _, err := n.ipam("ADD", "other", "x"); code(err) != 11 {
		t.Errorf("ADD of polder-ipam: %v", err)
	}
	n.del(list, have[0])
	if err := n.status(list); err != nil {
		t.Errorf("STATUS after a DEL: %v", err)
	}
	n.add(list, refused[0])
	for _, c := range containers {
		n.del(list, c) // also those whose ADD was refused, as a runtime does
	}
	eventually(t, time.Minute, "all is free or cools", func() error {
		if p := n.pool(); p.Used != 0 || p.Free+p.Cooling != 13 {
			return fmt.Errorf("addresses are %+v", p)
		}
		return nil
	})
}

// The other way round: polder-ipam and pods of Polder's take turns until there is nothing left.
func TestAddressesOfThePluginAndOfTheIPAMPluginNeverMeet(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	n := newRuntimeNode(t, c.Nodes()[0])
	n.podCIDR(c, "10.244.1.0/24", "10.244.1.0/28")
	list := n.installed()
	containers := make([]container, 20)
	for i := range containers {
		containers[i] = newContainer(t, fmt.Sprintf("c%d", i))
	}
	var mu sync.Mutex
	held := map[netip.Addr]int{}
	given := 0
	parallel(len(containers), func(i int) error {
		r, err := n.tryAdd(list, containers[i])
		if i%2 == 0 {
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				given++
				held[addresses(r)[0]]++
			}
			return nil
		}
		if err == nil {
			if err := n.tryDel(list, containers[i]); err != nil {
				return err
			}
		}
		if r, err = n.ipam("ADD", "other", containers[i].ContainerID); err == nil {
			mu.Lock()
			defer mu.Unlock()
			given++
			held[addresses(r)[0]]++
		}
		return err
	})
	if used := n.pool().Used; given != len(held) || used != uint64(given) {
		t.Errorf("%d were given, as %v, %d are in use", given, held, used)
	}
	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the next agent knows them all", func() error {
		if used := n.pool().Used; used != uint64(given) {
			return fmt.Errorf("%d are in use, not %d", used, given)
		}
		return nil
	})
	for i, c := range containers {
		n.del(list, c)
		if i%2 == 1 {
			if _, err := n.ipam("DEL", "other", c.ContainerID); err != nil {
				t.Error(err)
			}
		}
	}
	if used := n.pool().Used; used != 0 {
		t.Errorf("%d are still in use", used)
	}
}
