package watch

import "github.com/polder-net/polder/internal/cluster"

// Once returns what manifests say, as if they were the one file of a folder, in YAML.
func Once(manifests []byte) *cluster.Snapshot {
	c := newContent()
	c.set("manifests.yaml", manifests)
	return c.snapshot()
}
