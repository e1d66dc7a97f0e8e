package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// readService reads a line about Services. A slice's endpoints are the lines below it.
func (s *Scenario) readService(word string, p *parser) bool {
	switch word {
	case "service": // namespace/name, then words with their values
		o := s.objects(p)
		o.Service = &cluster.Service{ServiceName: o.name}
		for p.err == nil && len(p.words) > 0 {
			readServiceWord(o.Service, p.word(), p)
		}
	case "slice", "slice6": // namespace/name slice, then its ports
		o := s.objects(p)
		s.last = &cluster.EndpointSlice{Name: p.word(), IPv4: word == "slice"}
		o.Slices = append(o.Slices, s.last)
		for p.err == nil && len(p.words) > 0 {
			if word := p.word(); word != "port" {
				p.keep(fmt.Errorf("unknown word %q", word))
			}
			name, number, protocol := p.port()
			s.last.Ports = append(s.last.Ports, cluster.EndpointPort{Name: name, Protocol: protocol, Port: number})
		}
	case "endpoint":
		if s.last == nil {
			p.keep(fmt.Errorf("no slice is above it"))
			return true
		}
		s.last.Endpoints = append(s.last.Endpoints, readEndpoint(p))
	default:
		return false
	}
	return true
}

// reading is what has been read of one Service.
type reading struct {
	cluster.ServiceObjects
	name cluster.ServiceName
}

func (s *Scenario) objects(p *parser) *reading {
	name := p.serviceName()
	if s.services[name] == nil {
		s.services[name] = &reading{name: name}
	}
	return s.services[name]
}

// finish puts what was read into the Snapshot.
func (s *Scenario) finish() {
	all := map[cluster.ServiceName]*cluster.ServiceObjects{}
	for name, r := range s.services {
		slices.SortFunc(r.Slices, func(a, b *cluster.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
		all[name] = &r.ServiceObjects
	}
	if len(all) > 0 {
		s.Snapshot.Services = s.Snapshot.Services.With(all)
	}
}

func readServiceWord(svc *cluster.Service, word string, p *parser) {
	switch word {
	case "clusterip":
		svc.ClusterIPs = p.addrs()
	case "externalip":
		svc.ExternalIPs = p.addrs()
	case "loadbalancer":
		svc.LoadBalancerIPs = p.addrs()
	case "sources":
		svc.SourceRanges = p.prefixes()
	case "port":
		name, number, protocol := p.port()
		svc.Ports = append(svc.Ports, cluster.ServicePort{Name: name, Protocol: protocol, Port: number})
	case "nodeport": // of the port before it
		if len(svc.Ports) == 0 {
			p.keep(fmt.Errorf("no port is before the node port"))
			return
		}
		svc.Ports[len(svc.Ports)-1].NodePort = uint16(p.number())
	case "internal-local":
		svc.InternalLocal = true
	case "external-local":
		svc.ExternalLocal = true
	case "affinity": // seconds
		svc.Affinity = p.number()
	case "health":
		svc.HealthCheckNodePort = uint16(p.number())
	case "created": // the lower, the older
		svc.Created = int64(p.number())
	case "uid":
		svc.UID = p.word()
	default:
		p.keep(fmt.Errorf("unknown word %q", word))
	}
}

func readEndpoint(p *parser) cluster.Endpoint {
	e := cluster.Endpoint{Addr: p.addr(), Ready: true, Serving: true}
	for p.err == nil && len(p.words) > 0 {
		switch word := p.word(); word {
		case "node":
			e.Node = p.word()
		case "zones":
			e.ForZones = p.list()
		case "nodes":
			e.ForNodes = p.list()
		case "ready":
		case "notready":
			e.Ready, e.Serving = false, false
		case "terminating":
			e.Ready, e.Terminating = false, true
		case "ended":
			e.Ready, e.Serving, e.Terminating = false, false, true
		default:
			p.keep(fmt.Errorf("unknown word %q", word))
		}
	}
	return e
}

func (p *parser) serviceName() cluster.ServiceName {
	ns, name, _ := strings.Cut(p.word(), "/")
	return cluster.ServiceName{Namespace: ns, Name: name}
}

// port reads name:number/protocol. A port without a name begins with the colon.
func (p *parser) port() (name string, number uint16, protocol cluster.Protocol) {
	name, rest, named := strings.Cut(p.word(), ":")
	text, known, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(text, 10, 16)
	if !named {
		err = fmt.Errorf("%q is not name:number/protocol", name)
	}
	p.keep(err)
	return name, uint16(n), p.protocol(known)
}

func (p *parser) protocol(text string) cluster.Protocol {
	for _, known := range []cluster.Protocol{cluster.TCP, cluster.UDP, cluster.SCTP} {
		if text == known.String() {
			return known
		}
	}
	p.keep(fmt.Errorf("unknown protocol %q", text))
	return 0
}

// hostPort reads address:number/protocol and the pod's number.
func (p *parser) hostPort() cluster.HostPort {
	at, known, _ := strings.Cut(p.word(), "/")
	a, err := netip.ParseAddrPort(at)
	p.keep(err)
	return cluster.HostPort{Addr: a.Addr(), Port: a.Port(), Protocol: p.protocol(known), PodPort: uint16(p.number())}
}
