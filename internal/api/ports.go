package api

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/polder-net/polder/internal/plain"
)

// ValidatePorts says what in a list of mappings cannot be: also that two of them give one port of the node to different
// ports of the pod. Twice the same is once.
func ValidatePorts(mappings []PortMapping) error {
	leads := map[PortMapping]uint16{} // without its ContainerPort
	for _, m := range mappings {
		if err := m.validate(); err != nil {
			return err
		}
		for _, at := range m.perFamily() {
			at.ContainerPort = 0
			if other, ok := leads[at]; ok && other != m.ContainerPort {
				return fmt.Errorf("port mapping %s: the port is asked for twice, the other leads to %d", m, other)
			}
			leads[at] = m.ContainerPort
		}
	}
	return nil
}

func (m PortMapping) validate() error {
	protocols := m.Protocol == plain.TCP || m.Protocol == plain.UDP || m.Protocol == plain.SCTP
	switch {
	case !protocols:
		return errors.New("port mapping without a protocol of TCP, UDP or SCTP")
	case m.HostPort == 0 || m.ContainerPort == 0:
		return fmt.Errorf("port mapping %s: no port is 0", m)
	case m.HostIP.Is4In6() || m.HostIP.Zone() != "" || m.HostIP.IsMulticast():
		return fmt.Errorf("port mapping %s: the address cannot be a node's", m)
	}
	return nil
}

// perFamily is the same with an address in any case: without one it means two.
func (m PortMapping) perFamily() []PortMapping {
	if m.HostIP.IsValid() {
		return []PortMapping{m}
	}
	v4, v6 := m, m
	v4.HostIP, v6.HostIP = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	return []PortMapping{v4, v6}
}

func (m PortMapping) String() string {
	host := "*"
	if m.HostIP.IsValid() {
		host = m.HostIP.String()
		if m.HostIP.Is6() {
			host = "[" + host + "]"
		}
	}
	return fmt.Sprintf("%s:%d/%s to %d", host, m.HostPort, m.Protocol, m.ContainerPort)
}
