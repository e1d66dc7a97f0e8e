package lab_test

import (
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// podLinks lists the links of pods on a node.
func podLinks(t *testing.T, n *lab.Node) []string {
	t.Helper()
	var names []string
	err := n.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			if strings.HasPrefix(l.Name, "pdr") {
				names = append(names, l.Name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestAPodWhoseCreationWasKilledCanBeDeleted(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	n := c.Nodes()[0]
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	killed := 0
	for range 20 {
		create := polder(t, "lab", "pod", "create", "--state", c.State(), "one")
		if err := create.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
		create.Process.Kill()
		if create.Wait() != nil {
			killed++
		}
		pods, err := c.Pods()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			if err := c.DeletePod(t.Context(), p.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if killed == 0 {
		t.Error("no creation was killed in time")
	}
	if links := podLinks(t, n); len(links) > 0 {
		t.Errorf("links of pods are left: %q", links)
	}
	if _, err := c.CreatePod(t.Context(), lab.PodOptions{Name: "one"}); err != nil {
		t.Error(err)
	}
}
