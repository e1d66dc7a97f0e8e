package watch

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/polder-net/polder/internal/cluster"
)

// serviceSlice is an EndpointSlice with the name of its Service, which need not be there.
type serviceSlice struct {
	service cluster.ServiceName
	*cluster.EndpointSlice
}

// readSlice keeps of an EndpointSlice what Polder reads of it; nil: no Service that Polder serves has it.
func readSlice(o *discoveryv1.EndpointSlice, t texts) (*serviceSlice, []string) {
	_, headless := o.Labels[corev1.IsHeadlessService]
	service := o.Labels[discoveryv1.LabelServiceName]
	if headless || service == "" || o.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil
	}
	if o.AddressType != discoveryv1.AddressTypeIPv4 && o.AddressType != discoveryv1.AddressTypeIPv6 {
		return nil, []string{fmt.Sprintf("addressType %q is none of IPv4, IPv6 and FQDN", string(o.AddressType))}
	}
	s := &cluster.EndpointSlice{Name: o.Name, IPv4: o.AddressType == discoveryv1.AddressTypeIPv4}
	var problems []string
	s.Ports, problems = readPorts(o.Ports, t)
	r := endpointReader{texts: t, ipv4: s.IPv4}
	s.Endpoints = make([]cluster.Endpoint, 0, len(o.Endpoints))
	for i := range o.Endpoints {
		if e, err := r.read(&o.Endpoints[i]); err == nil {
			s.Endpoints = append(s.Endpoints, e)
		} else if r.bad++; r.bad == 1 {
			r.first = fmt.Sprintf("endpoint %d: %v", i, err)
		}
	}
	s.Endpoints = slices.Clip(s.Endpoints)
	if r.bad > 0 {
		problems = append(problems, r.problem())
	}
	name := cluster.ServiceName{Namespace: t.shared(o.Namespace), Name: service}
	return &serviceSlice{name, s}, problems
}

func readPorts(ports []discoveryv1.EndpointPort, t texts) ([]cluster.EndpointPort, []string) {
	all := make([]cluster.EndpointPort, 0, len(ports))
	var problems []string
	for _, p := range ports {
		if p.Port == nil || *p.Port == 0 {
			continue
		}
		var text corev1.Protocol
		if p.Protocol != nil {
			text = *p.Protocol
		}
		protocol, err := parseProtocol(text)
		number, ok := portNumber(*p.Port)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("port %d: %v", *p.Port, err))
			continue
		case !ok:
			problems = append(problems, fmt.Sprintf("%d is not a port", *p.Port))
			continue
		}
		port := cluster.EndpointPort{Protocol: protocol, Port: number}
		if p.Name != nil {
			port.Name = t.shared(*p.Name)
		}
		if slices.ContainsFunc(all, func(first cluster.EndpointPort) bool {
			return first.Name == port.Name && first.Protocol == port.Protocol
		}) {
			problems = append(problems, fmt.Sprintf("port %d/%s, %q: there is one of that name, which counts", number, protocol, port.Name))
			continue
		}
		all = append(all, port)
	}
	return slices.Clip(all), problems
}

// endpointReader reads the endpoints of a slice.
type endpointReader struct {
	texts        texts
	ipv4         bool
	zones, nodes hints // that endpoints before have, and the next mostly has, too

	bad   int    // endpoints that are left out
	first string // why the first of them is
}

// problem is one for the slice: it may have a thousand endpoints.
func (r *endpointReader) problem() string {
	switch r.bad {
	case 1:
		return r.first
	case 2:
		return r.first + ", and another one"
	}
	return fmt.Sprintf("%s, and %d others", r.first, r.bad-1)
}

func (r *endpointReader) read(o *discoveryv1.Endpoint) (cluster.Endpoint, error) {
	addr, err := r.address(o.Addresses)
	if err != nil {
		return cluster.Endpoint{}, err
	}
	e := cluster.Endpoint{Addr: addr, Ready: orElse(o.Conditions.Ready, true), Terminating: orElse(o.Conditions.Terminating, false)}
	e.Serving = orElse(o.Conditions.Serving, e.Ready)
	if o.NodeName != nil {
		e.Node = r.texts.shared(*o.NodeName)
	}
	if o.Hints != nil {
		e.ForZones = oneOf(&r.zones, r.texts, o.Hints.ForZones, func(z discoveryv1.ForZone) string { return z.Name })
		e.ForNodes = oneOf(&r.nodes, r.texts, o.Hints.ForNodes, func(n discoveryv1.ForNode) string { return n.Name })
	}
	return e, nil
}

func (r *endpointReader) address(texts []string) (netip.Addr, error) {
	if len(texts) == 0 {
		return netip.Addr{}, errors.New("has no address")
	}
	addr, err := parseAddress(texts[0], "an endpoint")
	if err == nil && addr.Is4() != r.ipv4 {
		err = fmt.Errorf("%q is not of the slice's addressType", texts[0])
	}
	return addr, err
}

// hints are lists of names that endpoints of a slice share. A few: there are few zones, and a search must be short.
type hints [][]string

// oneOf reads hints as one of had, which it becomes if it is none.
func oneOf[T any](had *hints, t texts, read []T, name func(T) string) []string {
	if len(read) == 0 {
		return nil
	}
	for _, h := range *had {
		if slices.EqualFunc(h, read, func(s string, one T) bool { return s == name(one) }) {
			return h
		}
	}
	all := make([]string, len(read))
	for i, one := range read {
		all[i] = t.shared(name(one))
	}
	if len(*had) < 8 {
		*had = append(*had, all)
	}
	return all
}

func orElse(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}
