package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/lab"
)

// How many addresses are taken on the two nodes that C3 compares.
const (
	few  = 250
	many = 10000
)

// crowded measures C3: ADD on a node with few addresses taken, and on one with many.
func (b *bench) crowded(ctx context.Context) (err error) {
	c, err := b.startLab(ctx, "crowded", lab.Options{Nodes: 2})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	taken := []int{few, many}
	var ours, theirs []containers
	for i, node := range c.Nodes() {
		b.say("C3 taking %d addresses on %s", taken[i], node.Name)
		if err := b.crowd(ctx, c, node, i, taken[i]); err != nil {
			return fmt.Errorf("C3: %w", err)
		}
		ours = append(ours, onNode(node))
		r, err := newReference(fmt.Sprintf("bridge%d", i), "bridge", b.plugins, filepath.Join(b.state, "crowded", "reference"), true)
		if err != nil {
			return err
		}
		defer r.close()
		if err := r.crowd(ctx, taken[i]); err != nil {
			return fmt.Errorf("C3: %w", err)
		}
		theirs = append(theirs, r.containers)
	}
	return b.compareCrowds(ctx, slices.Concat(ours, theirs))
}

// compareCrowds times ADD in turn: ours with few and with many addresses taken, and the bridge plugin's.
func (b *bench) compareCrowds(ctx context.Context, variants []containers) error {
	rounds := 30
	if b.quick {
		rounds = 10
	}
	adds := make([][]float64, len(variants))
	for round := range rounds {
		for i := range variants {
			k := order(round, i, len(variants))
			add, _, err := addAndDelete(ctx, variants[k])
			if err != nil {
				return err
			}
			adds[k] = append(adds[k], ms(add))
		}
	}
	for k, name := range []string{"Polder, few", "Polder, many", "bridge, few", "bridge, many"} {
		b.keep("C3 ADD ms", name, adds[k])
	}
	what := fmt.Sprintf("ADD with %d addresses taken / with %d", many, few)
	b.add(atMost(ratioRow("C3", what, adds[1], adds[0], quantiles(adds[1])+" / "+quantiles(adds[0])), 1.05),
		ratioRow("C3", what+": bridge + host-local", adds[3], adds[2], quantiles(adds[3])+" / "+quantiles(adds[2])))
	return nil
}

// crowd gives a node a wide pod CIDR, and takes addresses of it by Polder's IPAM plugin's protocol.
func (b *bench) crowd(ctx context.Context, c *lab.Cluster, n *lab.Node, number, count int) error {
	cidr := fmt.Sprintf("10.%d.0.0/16", 130+number)
	if err := widen(c, n, cidr); err != nil {
		return err
	}
	socket := filepath.Join(n.Path("/run/polder"), filepath.Base(api.Socket))
	for i := 0; i < count; {
		resp, err := ask(ctx, socket, api.Request{Verb: api.Reserve,
			Attachment: api.Attachment{Network: "crowd", ContainerID: fmt.Sprintf("crowd-%d", i), Ifname: "eth0"}})
		if err != nil {
			return fmt.Errorf("take address %d: %w", i, err)
		}
		if i == 0 && resp.Addresses[0].Prefix.Bits() != 16 { // the agent has not read the new manifest yet
			if _, err := ask(ctx, socket, api.Request{Verb: api.Release,
				Attachment: api.Attachment{Network: "crowd", ContainerID: "crowd-0", Ifname: "eth0"}}); err != nil {
				return err
			}
			time.Sleep(200 * time.Millisecond)
			continue
		}
		i++
	}
	return nil
}

func ask(ctx context.Context, socket string, req api.Request) (api.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return api.Call(ctx, socket, req, nil)
}

// widen changes a node's IPv4 pod CIDR in its manifest.
func widen(c *lab.Cluster, n *lab.Node, cidr string) error {
	path, err := manifestOf(c, n)
	if err != nil {
		return err
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var node map[string]any
	if err := yaml.Unmarshal(body, &node); err != nil {
		return fmt.Errorf("read manifest of %s: %w", n.Name, err)
	}
	spec, ok := node["spec"].(map[string]any)
	if !ok {
		return fmt.Errorf("read manifest of %s: no spec", n.Name)
	}
	cidrs := []string{cidr}
	for _, p := range n.Cluster().PodCIDRs {
		if p.Addr().Is6() {
			cidrs = append(cidrs, p.String())
		}
	}
	spec["podCIDR"], spec["podCIDRs"] = cidr, cidrs
	if body, err = yaml.Marshal(node); err != nil {
		return err
	}
	// Readers of the folder leave files alone whose names begin with a dot.
	hidden := filepath.Join(c.Manifests(), ".widened")
	if err := os.WriteFile(hidden, body, 0o644); err != nil {
		return err
	}
	return os.Rename(hidden, path)
}

func manifestOf(c *lab.Cluster, n *lab.Node) (string, error) {
	files, err := filepath.Glob(filepath.Join(c.Manifests(), "*"+n.Name+".yaml"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("find manifest of %s: %d files: %w", n.Name, len(files), err)
	}
	return files[0], nil
}

// crowd takes addresses as host-local does: a file each, with the holder's name. Its first ADD makes the folder.
func (r reference) crowd(ctx context.Context, count int) error {
	if _, _, err := addAndDelete(ctx, r.containers); err != nil {
		return err
	}
	v4, v6 := netip.MustParseAddr("10.88.0.200"), netip.MustParseAddr("fd00:88::c8")
	for range count {
		v4, v6 = v4.Next(), v6.Next()
		for _, a := range []netip.Addr{v4, v6} {
			name := filepath.Join(r.data, a.String())
			if err := os.WriteFile(name, []byte("crowd-"+a.String()+"\r\neth0"), 0o644); err != nil {
				return fmt.Errorf("take address %s: %w", a, err)
			}
		}
	}
	return nil
}
