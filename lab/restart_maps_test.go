package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/lab"
)

// mapsOf reads what the datapath's maps on a node say, without asking the agent: by map and key. Links are named
// instead of numbered. Of two layouts of a map, which there are for a moment in an upgrade, it is an error.
func mapsOf(n *lab.Node) (map[string]map[string]string, error) {
	links, err := linkNames(n.Place)
	if err != nil {
		return nil, err
	}
	dir := fmt.Sprintf("/proc/%d/root/sys/fs/bpf/polder/maps", n.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]string{}
	for _, e := range entries {
		name := e.Name()[:strings.LastIndexByte(e.Name(), '_')]
		if all[name] != nil {
			return nil, fmt.Errorf("there are two maps %s: %v", name, entries)
		}
		if all[name], err = readMap(filepath.Join(dir, e.Name()), name, links); err != nil {
			return nil, fmt.Errorf("read map %s: %w", name, err)
		}
	}
	return all, nil
}

// memories are maps that say what was, and who came, not what should be.
func memories() []string {
	return []string{"counts", "reserved", "affinities", "connected", "datagrams", "flows", "opening", "marks", "fragments", "work",
		"epoch", "judged_flows", "judged_opening", "recents", "denied", "denials"}
}

func readMap(pin, name string, links map[uint32]string) (map[string]string, error) {
	rows := map[string]string{}
	if slices.Contains(memories(), name) {
		return rows, nil
	}
	m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	var key, value []byte
	it := m.Iterate()
	for it.Next(&key, &value) {
		if name == "configuration" && binary.NativeEndian.Uint32(key) != 0 {
			continue // the other layout has room for more
		}
		k, v := describeEntry(name, key, value, links)
		rows[k] = v
	}
	return rows, it.Err()
}

// describeEntry knows where the types of bpf/types.h hold a link's number and an address.
func describeEntry(name string, key, value []byte, links map[uint32]string) (string, string) {
	link := func(offset int) string {
		i := binary.NativeEndian.Uint32(value[offset:])
		binary.NativeEndian.PutUint32(value[offset:], 0)
		if i == 0 {
			return "no link"
		}
		return links[i]
	}
	switch name {
	case "endpoints":
		addr, _ := netip.AddrFromSlice(key)
		return addr.Unmap().String(), fmt.Sprintf("%s %x", link(0), value)
	case "remotes":
		bits := int(binary.NativeEndian.Uint32(key))
		addr, _ := netip.AddrFromSlice(key[4:20])
		if addr.Is4In6() {
			addr, bits = addr.Unmap(), bits-96
		}
		return netip.PrefixFrom(addr, bits).String(), fmt.Sprintf("%s %x", link(4), value)
	case "configuration":
		return "", fmt.Sprintf("%s %x", link(0), value)
	}
	return fmt.Sprintf("%x", key), fmt.Sprintf("%x", value)
}

func linkNames(p lab.Place) (map[uint32]string, error) {
	names := map[uint32]string{}
	err := p.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names[uint32(l.Index)] = l.Name
		}
		return err
	})
	return names, err
}

// modelled compares a node's maps with what the lab knows: an endpoint for each address of the node and its pods,
// a remote for each address and pod CIDR of the others, and nothing else.
func (w *world) modelled(n *lab.Node) error {
	have, err := mapsOf(n)
	if err != nil {
		return err
	}
	var endpoints, remotes []string
	pods, err := w.podAddresses(n)
	if err != nil {
		return err
	}
	for _, a := range append(pods, n.Cluster().Addresses...) {
		endpoints = append(endpoints, a.String())
	}
	for _, other := range w.Nodes() {
		if other.Name == n.Name {
			continue
		}
		for _, a := range other.Cluster().Addresses {
			remotes = append(remotes, netip.PrefixFrom(a, a.BitLen()).String())
		}
		for _, p := range other.Cluster().PodCIDRs {
			remotes = append(remotes, p.String())
		}
	}
	return errors.Join(sameKeys("endpoints", have["endpoints"], endpoints), sameKeys("remotes", have["remotes"], remotes))
}

func sameKeys(name string, have map[string]string, want []string) error {
	got := slices.Sorted(maps.Keys(have))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s are %v, want %v", name, got, want)
	}
	return nil
}
