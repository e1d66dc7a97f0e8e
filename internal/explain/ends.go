package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// end is one end of a question. At most one of pod, node and service is set.
type end struct {
	End
	pod     *pod
	node    *cluster.Node
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
	case len(parts) == 1:
		text = "default/" + text
	}
	return c.named(text, destination)
}

// named is a pod or, if there is no such pod, a Service.
func (c *Cluster) named(name string, destination bool) (end, error) {
	raw := c.rawService(name)
	if p := c.podNamed(name); p != nil {
		e, err := podEnd(p)
		if raw != nil && destination {
			e.Note = "there is a Service of this name, too: svc/" + name
		}
		return e, err
	}
	if raw == nil || !destination {
		return end{}, fmt.Errorf("there is no pod %s", c.orService(name, destination))
	}
	e, err := c.serviceEnd(name)
	e.Note = "there is no pod of this name"
	return e, err
}

func (c *Cluster) orService(name string, destination bool) string {
	if destination {
		return name + ", and no Service"
	}
	return name
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
	return nil
}

// portOf finds the port that is asked for.
func (e end) portOf(q Question) (uint16, error) {
	if q.Protocol == ICMP {
		if q.Port != "" {
			return 0, errors.New("ICMP has no ports")
		}
		return 0, nil
	}
	if n, err := strconv.ParseUint(q.Port, 10, 16); err == nil && n > 0 {
		return uint16(n), nil
	} else if strings.Trim(q.Port, "0123456789") == "" && q.Port != "" {
		return 0, fmt.Errorf("%s is not a port: want 1 to 65535", q.Port)
	}
	var numbers []uint16
	for _, p := range e.ports() {
		if p.protocol == q.Protocol && (q.Port == "" || p.name == q.Port) && !slices.Contains(numbers, p.number) {
			numbers = append(numbers, p.number)
		}
	}
	switch {
	case len(numbers) == 1:
		return numbers[0], nil
	case q.Port == "":
		return 0, fmt.Errorf("say which port: %s:PORT%s", q.To, e.hasPorts())
	case len(numbers) > 1:
		return 0, fmt.Errorf("%s has several %s ports of the name %s: say a number", e.label(), q.Protocol, q.Port)
	}
	return 0, fmt.Errorf("%s has no %s port of the name %s%s", e.label(), q.Protocol, q.Port, e.hasPorts())
}

func (e end) ports() (list []port) {
	switch {
	case e.service != nil:
		for _, p := range e.service.Ports {
			list = append(list, port{p.Name, p.Protocol, p.Port})
		}
	case e.pod != nil:
		return e.pod.ports
	}
	return list
}

func (e end) hasPorts() string {
	var texts []string
	for _, p := range e.ports() {
		text := fmt.Sprintf("%d/%s", p.number, p.protocol)
		if p.name != "" {
			text = p.name + " " + text
		}
		texts = append(texts, text)
	}
	if len(texts) == 0 {
		return ""
	}
	return " (it has " + strings.Join(texts, ", ") + ")"
}

// label names an end for people.
func (e End) label() string {
	if e.Name == "" {
		return e.Addresses[0].String()
	}
	return e.Kind + " " + e.Name
}
