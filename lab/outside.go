package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// outsideName is the name of the client outside, as a place and on the fabric.
const outsideName = "outside"

// outsideNumber makes the client's addresses and its MAC as a node's number would; nodes have 1 to MaxNodes.
const outsideNumber = 240

// planOutside lays out the client outside: a machine that is no node. In a lab of one rack it is the nodes' neighbour;
// where there are several racks, it is alone in one more, behind the router.
func planOutside(racks int) nodeRecord {
	rack := 0
	if racks > 1 {
		rack = racks
	}
	return nodeRecord{
		Name: outsideName, Number: outsideNumber, Rack: rack, Addresses: nodeAddresses(outsideNumber, rack),
	}
}

// startOutside builds the client outside. The first node is its way to load balancers.
func (c *Cluster) startOutside(fabric *os.File) error {
	netns, err := newNetns()
	if err != nil {
		return err
	}
	defer netns.Close()
	o := &c.record.Outside
	if err := connectNode(fabric, netns, *o, c.record.Racks > 1); err != nil {
		return err
	}
	if o.Holder, err = c.startHolder(netns, o.Name, unix.CLONE_NEWUTS, "lab", "hold-outside"); err != nil {
		return err
	}
	if err := c.Outside().in(unix.CLONE_NEWUTS, func() error { return unix.Sethostname([]byte(o.Name)) }); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	for _, p := range loadBalancerRanges() {
		if err := c.RouteOutside(p, c.Nodes()[0]); err != nil {
			return err
		}
	}
	return nil
}

// Outside is a client outside the cluster: it reaches the nodes' addresses, and load balancers' by way of a node.
func (c *Cluster) Outside() Place {
	return Place{outsideName, c.record.Outside.Holder, c.record.nodeGroup(outsideName)}
}

// OutsideAddresses are the addresses of the client outside, of each family one.
func (c *Cluster) OutsideAddresses() []netip.Addr { return c.record.Outside.addresses() }

// RouteOutside sends what the client outside has for addresses of a prefix to a node, as a load balancer or a router
// in front of the cluster would. Replies from these addresses come back to it.
func (c *Cluster) RouteOutside(to netip.Prefix, via *Node) error {
	route := &netlink.Route{Dst: ipNet(to.Masked())}
	for _, a := range via.rec.addresses() {
		if a.Is4() == to.Addr().Is4() {
			route.Gw = a.AsSlice()
		}
	}
	at := c.Outside()
	if c.record.Racks > 1 {
		at = c.Fabric() // the client sends all to the router
	}
	err := at.Do(func() error {
		err := netlink.RouteReplace(route)
		if c.record.Racks > 1 {
			err = errors.Join(err, forwardFrom(to.Masked()))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("route %s to %s: %w", to, via.Name, err)
	}
	return nil
}
