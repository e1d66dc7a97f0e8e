package lab_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
)

// tampering is something that a foreign hand does to a pod, and the word in CHECK's error that names it. What the
// agent repairs by itself may be repaired before CHECK looks.
type tampering struct {
	do       func(c container, r *types100.Result) error
	names    string
	repaired bool
}

func (n *runtimeNode) tamperings() map[string]tampering {
	inPod := func(f func(l netlink.Link) error) func(container, *types100.Result) error {
		return func(c container, _ *types100.Result) (err error) {
			c.ns.Do(func() {
				var l netlink.Link
				if l, err = netlink.LinkByName(c.IfName); err == nil {
					err = f(l)
				}
			})
			return err
		}
	}
	onNode := func(f func(l netlink.Link, r *types100.Result) error) func(container, *types100.Result) error {
		return func(_ container, r *types100.Result) error {
			return n.Do(func() error {
				l, err := netlink.LinkByName(r.Interfaces[0].Name)
				if err != nil {
					return err
				}
				return f(l, r)
			})
		}
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	return map[string]tampering{
		"the address is removed in the pod": {do: inPod(func(l netlink.Link) error {
			list, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if err != nil || len(list) != 1 {
				return fmt.Errorf("addresses are %v: %w", list, err)
			}
			return netlink.AddrDel(l, &list[0])
		}), names: "address 10.244.1."},
		"the default route is removed in the pod": {do: inPod(func(l netlink.Link) error {
			return netlink.RouteDel(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(169, 254, 1, 1), Family: netlink.FAMILY_V4})
		}), names: "default route"},
		"the pod's end is down":              {do: inPod(netlink.LinkSetDown), names: "down"},
		"the pod's end has another MAC":      {do: inPod(func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, mac) }), names: "MAC"},
		"the pod's end has another MTU":      {do: inPod(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1400) }), names: "MTU"},
		"the pod forgets its gateway's MAC":  {do: inPod(removeNeighbours), names: "neighbour"},
		"the pod's end is renamed":           {do: inPod(renameLink), names: "eth0"},
		"the node's end has another MAC":     {do: onNode(func(l netlink.Link, _ *types100.Result) error { return netlink.LinkSetHardwareAddr(l, mac) }), names: "MAC"},
		"the record is overwritten":          {do: onNode(func(l netlink.Link, _ *types100.Result) error { return netlink.LinkSetAlias(l, "mine") }), names: "mine", repaired: true},
		"the node's end is down":             {do: onNode(func(l netlink.Link, _ *types100.Result) error { return netlink.LinkSetDown(l) }), names: "down"},
		"the node's neighbour is removed":    {do: onNode(func(l netlink.Link, _ *types100.Result) error { return removeNeighbours(l) }), names: "neighbour", repaired: true},
		"the node's route is removed":        {do: onNode(removeRoutes), names: "route", repaired: true},
		"the map forgets the pod":            {do: n.forgetEndpoint, names: "datapath", repaired: true},
		"the program is detached":            {do: onNode(detach), names: "from_pod", repaired: true},
		"the link is gone":                   {do: onNode(func(l netlink.Link, _ *types100.Result) error { return netlink.LinkDel(l) }), names: "no such link"},
		"the result has another address":     {do: n.falsify("10.244.1.", "10.244.9."), names: "10.244."},
		"the result has another MAC address": {do: n.falsify(`"mac":"`, `"mac":"06:`), names: "06:"},
	}
}

func removeNeighbours(l netlink.Link) error {
	list, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_V4)
	if err != nil || len(list) == 0 {
		return fmt.Errorf("neighbours are %v: %w", list, err)
	}
	for _, e := range list {
		if err := netlink.NeighDel(&e); err != nil {
			return err
		}
	}
	return nil
}

func renameLink(l netlink.Link) error {
	return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "other"), netlink.LinkSetUp(l))
}

func removeRoutes(l netlink.Link, _ *types100.Result) error {
	list, err := netlink.RouteList(l, netlink.FAMILY_V4)
	if err != nil || len(list) == 0 {
		return fmt.Errorf("routes are %v: %w", list, err)
	}
	for _, r := range list {
		if err := netlink.RouteDel(&r); err != nil {
			return err
		}
	}
	return nil
}

func (n *runtimeNode) forgetEndpoint(_ container, r *types100.Result) error {
	m, err := n.pinnedMap("endpoints")
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Delete(addresses(r)[0].As16())
}

// detach removes the filter on the link, by the qdisc that holds it.
func detach(l netlink.Link, _ *types100.Result) error {
	list, err := netlink.QdiscList(l)
	if err != nil {
		return err
	}
	for _, q := range list {
		if q.Type() == "clsact" {
			return netlink.QdiscDel(q)
		}
	}
	return fmt.Errorf("no clsact among %v", list)
}

// falsify changes the result that libcni keeps, and gives to CHECK.
func (n *runtimeNode) falsify(was, is string) func(container, *types100.Result) error {
	return func(c container, _ *types100.Result) error {
		path := filepath.Join(n.Path("/var/lib/cni"), "results", "polder-"+c.ContainerID+"-"+c.IfName)
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		changed := strings.Replace(string(body), was, is, 1)
		if strings.HasSuffix(is, ":") { // keep the address's length
			i := strings.Index(changed, is) + len(is)
			changed = changed[:i] + changed[i+3:]
		}
		if changed == string(body) {
			return fmt.Errorf("no %s in %s", was, body)
		}
		return os.WriteFile(path, []byte(changed), 0o600)
	}
}

func (n *runtimeNode) checksAfterTampering() {
	list := n.installed()
	for what, tamper := range n.tamperings() {
		var err error
		for attempt := range 20 {
			c := newContainer(n.t, fmt.Sprintf("tampered-%d", attempt))
			r := n.add(list, c)
			if err := n.check(list, c); err != nil {
				n.t.Fatalf("before %s: CHECK: %v", what, err)
			}
			if err := tamper.do(c, r); err != nil {
				n.t.Fatalf("%s: %v", what, err)
			}
			err = n.check(list, c)
			n.del(list, c)
			if err != nil || !tamper.repaired {
				break
			}
		}
		if err == nil || !strings.Contains(err.Error(), tamper.names) {
			n.t.Errorf("%s: CHECK says: %v", what, err)
		}
	}
	n.nothingLeft()
}
