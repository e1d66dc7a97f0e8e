package lab

import (
	"fmt"
	"os"
	"path/filepath"
)

// installNetwork gives every node another plugin's network configuration, as its administrator would.
func (c *Cluster) installNetwork(o Options) error {
	if o.Network == "" {
		return nil
	}
	plugins, err := os.ReadDir(o.Plugins)
	if err != nil {
		return fmt.Errorf("list plugins: %w", err)
	}
	for _, n := range c.record.Nodes {
		for _, p := range plugins {
			if err := copyProgram(filepath.Join(o.Plugins, p.Name()), filepath.Join(c.folder.root(n.Name, pluginFolder), p.Name())); err != nil {
				return fmt.Errorf("install plugin on %s: %w", n.Name, err)
			}
		}
		if err := writeFile(filepath.Join(c.folder.root(n.Name, confFolder), "10-lab.conflist"), []byte(o.Network)); err != nil {
			return fmt.Errorf("install network configuration on %s: %w", n.Name, err)
		}
	}
	return nil
}
