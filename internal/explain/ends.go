package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// end is one end of a question. At most one of pod, node, vacant and service is set.
type end struct {
	End
	pod     *pod
	node    *cluster.Node
	vacant  *cluster.Node // in whose pod CIDRs the address is, which no pod has
	service *cluster.Service
}

// end reads what somebody wrote. Only a destination can be a Service.
func (c *Cluster) end(text string, destination bool) (end, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return c.address(a.Unmap())
	}
	parts := strings.Split(text, "/")
	switch {
	case len(parts) == 2 && parts[0] == "node":
		return c.nodeEnd(parts[1])
	case len(parts) == 3 && parts[0] == "svc" && destination:
		return c.serviceEnd(parts[1] + "/" + parts[2])
	case len(parts) == 3 && parts[0] == "svc":
		return end{}, fmt.Errorf("%s sends nothing: name a pod, a node or an address as FROM", text)
	case len(parts) > 2 || slices.Contains(parts, ""):
		return end{}, fmt.Errorf("%q is no end of a connection: want NAMESPACE/NAME, node/NAME, svc/NAMESPACE/NAME or an address", text)
	}
	return c.named(text, destination)
}

// named is a pod or, if there is no such pod, a Service.
func (c *Cluster) named(text string, destination bool) (end, error) {
	name := text
	if !strings.Contains(text, "/") {
		name = "default/" + text
	}
	raw := c.rawService(name)
	if p := c.podNamed(name); p != nil {
		e, err := podEnd(p)
		if raw != nil && destination {
			e.Note = "there is a Service of this name, too: svc/" + name
		}
		return e, err
	}
	if raw == nil || !destination {
		return end{}, c.nobody(text, name, destination)
	}
	e, err := c.serviceEnd(name)
	e.Note = "there is no pod of this name"
	return e, err
}

// nobody says that nobody has a name, and what may be meant. Text is as it was written.
func (c *Cluster) nobody(text, name string, destination bool) error {
	what := "there is no pod " + name
	if destination {
		what += ", and no Service"
	}
	first, _, _ := strings.Cut(text, "/")
	namespace, short, _ := strings.Cut(name, "/")
	switch _, err := netip.ParsePrefix(text); {
	case err == nil:
		return fmt.Errorf("%s is a block of addresses: name one of them", text)
	case strings.ContainsAny(first, ".:"): // no namespace has these
		return fmt.Errorf("%s is no address, and %s", text, what)
	case namespace == "svc" && !destination:
		return fmt.Errorf("%s; a Service sends nothing: name a pod, a node or an address as FROM", what)
	case namespace == "svc":
		return fmt.Errorf("%s: a Service is svc/NAMESPACE/NAME, such as svc/%s/%s", what, c.namespaceOf(short), short)
	}
	return errors.New(what)
}

// namespaceOf is where a Service of that name is, or might be.
func (c *Cluster) namespaceOf(service string) string {
	found := "default"
	for _, s := range c.objects.Services {
		if s.Name == service && s.Namespace == "default" {
			return s.Namespace
		} else if s.Name == service {
			found = s.Namespace
		}
	}
	return found
}

func podEnd(p *pod) (end, error) {
	e := end{End: End{Kind: "pod", Name: p.name, Node: p.node, HostNetwork: p.host, Addresses: p.addresses}, pod: p}
	if len(p.addresses) == 0 {
		return e, fmt.Errorf("pod %s has no address yet", p.name)
	}
	return e, nil
}

func (c *Cluster) nodeEnd(name string) (end, error) {
	n := c.nodeNamed(name)
	switch {
	case n == nil:
		return end{}, fmt.Errorf("there is no node %s", name)
	case len(n.Addresses) == 0:
		return end{}, fmt.Errorf("node %s has no address", name)
	}
	return end{End: End{Kind: "node", Name: name, Addresses: primaries(*n)}, node: n}, nil
}

func (c *Cluster) serviceEnd(name string) (end, error) {
	s := c.serviceNamed(name)
	switch {
	case s != nil:
		return end{End: End{Kind: "Service", Name: name, Addresses: s.ClusterIPs}, service: s}, nil
	case c.rawService(name) == nil:
		return end{}, fmt.Errorf("there is no Service %s", name)
	}
	return end{}, fmt.Errorf("Service %s has no cluster IP that Polder serves: name one of its pods", name)
}

// address is whoever has it.
func (c *Cluster) address(a netip.Addr) (end, error) {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return end{}, fmt.Errorf("address %s cannot be that of an end of a connection", a)
	}
	e := end{End: End{Kind: "address", Addresses: []netip.Addr{a}}}
	if p := c.podAt(a); p != nil {
		e.pod, e.Kind, e.Name, e.Node = p, "pod", p.name, p.node
	} else if n := c.nodeAt(a); n != nil {
		e.node, e.Kind, e.Name = n, "node", n.Name
	} else if s := c.serviceAt(a); s != nil {
		e.service, e.Note = s, "a cluster IP of Service "+s.String()
	} else {
		e.vacant = c.nodeOfPodsAt(a)
	}
	return e, nil
}

// serviceAt finds the Service that has a cluster IP, nil if there is none.
func (c *Cluster) serviceAt(a netip.Addr) *cluster.Service {
	for _, s := range c.services {
		if slices.Contains(s.Service.ClusterIPs, a) {
			return s.Service
		}
	}
	return nil
}

// host is the node whose network an end is in; nil: none.
func (c *Cluster) host(e end) *cluster.Node {
	switch {
	case e.node != nil:
		return e.node
	case e.pod != nil:
		return c.nodeNamed(e.pod.node)
	}
	return e.vacant
}

func (c *Cluster) isOutside(e end) bool { return e.pod == nil && c.host(e) == nil }

// label names an end for people.
func (e End) label() string {
	if e.Name == "" {
		return e.Addresses[0].String()
	}
	return e.Kind + " " + e.Name
}
