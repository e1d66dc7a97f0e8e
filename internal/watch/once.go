package watch

import "github.com/polder-net/polder/internal/cluster"

// Once returns what one file of manifests says. Its name tells what is in it: YAML or JSON.
func Once(file string, manifests []byte) *cluster.Snapshot {
	c := newContent()
	c.set(file, manifests)
	return c.snapshot()
}
