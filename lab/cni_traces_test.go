package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// bpfDir is the node's folder of pins, as it is seen from outside.
func (n *runtimeNode) bpfDir(name string) string {
	return fmt.Sprintf("/proc/%d/root/sys/fs/bpf/polder/%s", n.PID(), name)
}

// pinnedMap opens a map of the node's datapath.
func (n *runtimeNode) pinnedMap(name string) (*ebpf.Map, error) {
	pins, err := filepath.Glob(n.bpfDir("maps/" + name + "_*"))
	if err != nil || len(pins) != 1 {
		return nil, fmt.Errorf("pins of map %s are %v: %w", name, pins, err)
	}
	return ebpf.LoadPinnedMap(pins[0], nil)
}

// mapAddresses lists the addresses that are keys of a map, and the first eight bytes of their values.
func (n *runtimeNode) mapAddresses(name string) (map[netip.Addr][8]byte, error) {
	m, err := n.pinnedMap(name)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	all := map[netip.Addr][8]byte{}
	var key, value []byte
	it := m.Iterate()
	for it.Next(&key, &value) {
		all[netip.AddrFrom16([16]byte(key)).Unmap()] = [8]byte(value)
	}
	return all, it.Err()
}

// inPodCIDR says whether an address is of the node's pods.
func (n *runtimeNode) inPodCIDR(a netip.Addr) bool {
	return slices.ContainsFunc(n.Cluster().PodCIDRs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// traces lists all that there is of pods on the node: links, routes, neighbours, pins, map entries and addresses in
// use. It asks the kernel, and for the last the agent.
func (n *runtimeNode) traces() ([]string, error) {
	var found []string
	for _, look := range []func() ([]string, error){n.networkTraces, n.pinTraces, n.poolTraces} {
		more, err := look()
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

func (n *runtimeNode) networkTraces() (found []string, err error) {
	err = n.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		name := map[int]string{}
		for _, l := range links {
			name[l.Attrs().Index] = l.Attrs().Name
			if strings.HasPrefix(l.Attrs().Name, "pdr") {
				found = append(found, "link "+l.Attrs().Name)
			}
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			a, _ := netip.AddrFromSlice(r.Dst.IP)
			if ones, bits := r.Dst.Mask.Size(); ones == bits && n.inPodCIDR(a.Unmap()) {
				found = append(found, fmt.Sprintf("route %s dev %s", r.Dst, name[r.LinkIndex]))
			}
		}
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, e := range neighbours {
			if strings.HasPrefix(name[e.LinkIndex], "pdr") {
				found = append(found, fmt.Sprintf("neighbour %s dev %s", e.IP, name[e.LinkIndex]))
			}
		}
		return err
	})
	return found, err
}

func (n *runtimeNode) pinTraces() (found []string, err error) {
	pins, err := os.ReadDir(n.bpfDir("links"))
	if err != nil {
		return nil, err
	}
	for _, p := range pins {
		if strings.HasPrefix(p.Name(), "from_pod") {
			found = append(found, "pin "+p.Name())
		}
	}
	endpoints, err := n.mapAddresses("endpoints")
	if err != nil {
		return nil, err
	}
	for a := range endpoints {
		if n.inPodCIDR(a) {
			found = append(found, "endpoint "+a.String())
		}
	}
	reserved, err := n.mapAddresses("reserved")
	for a, freed := range reserved {
		if freed == [8]byte{} {
			found = append(found, "reservation "+a.String())
		}
	}
	ports, notRead := n.portTraces()
	return append(found, ports...), errors.Join(err, notRead)
}

// portTraces are what is left of host ports: their record, and the frontends that were made of it.
func (n *runtimeNode) portTraces() (found []string, err error) {
	for _, name := range []string{"hostports", "frontends"} {
		have, err := n.mapAddresses(name)
		if err != nil {
			return nil, err
		}
		for a := range have {
			if name == "hostports" || a.IsLoopback() || slices.Contains(n.Cluster().Addresses, a) {
				found = append(found, "port of "+a.String()+" in "+name)
			}
		}
	}
	return found, nil
}

func (n *runtimeNode) poolTraces() (found []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := askReport(ctx, n.Node)
	if err != nil {
		return nil, err
	}
	for _, p := range r.Addresses {
		if p.Used > 0 {
			found = append(found, fmt.Sprintf("%d addresses of %s in use", p.Used, p.CIDR))
		}
		if !p.CIDR.Addr().Is4() {
			continue
		}
		if size := uint64(1)<<(32-p.CIDR.Bits()) - 3; p.Used+p.Free+p.Cooling != size {
			found = append(found, fmt.Sprintf("%s does not add up to %d: %+v", p.CIDR, size, p))
		}
	}
	return found, nil
}

// nothingLeft fails the test unless there is nothing of any pod on the node; the agent may take a moment.
func (n *runtimeNode) nothingLeft() {
	n.t.Helper()
	eventually(n.t, time.Minute, "nothing is left on "+n.Name, func() error {
		found, err := n.traces()
		if err == nil && len(found) > 0 {
			err = errors.New(strings.Join(found, ", "))
		}
		return err
	})
}
