package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/plain"
)

// portMappings is where the runtime says which ports of the node are to lead to the pod.
const portMappings = "runtimeConfig.portMappings"

// parsePorts reads them. An entry without a port of the node asks for nothing.
func parsePorts(raw json.RawMessage) (ports []api.PortMapping, err error) {
	var entries []json.RawMessage
	if err := decode(portMappings, raw, &entries); err != nil {
		return nil, err
	}
	for i, entry := range entries {
		m, asked, err := parsePort(fmt.Sprintf("%s[%d]", portMappings, i), entry)
		if err != nil {
			return nil, err
		}
		if asked {
			ports = append(ports, m)
		}
	}
	if err := api.ValidatePorts(ports); err != nil {
		return nil, fail(api.CodeInvalidConfig, "%s: %v", portMappings, err)
	}
	return ports, nil
}

func parsePort(what string, raw json.RawMessage) (m api.PortMapping, asked bool, err error) {
	fields, err := object(what, raw)
	if err != nil {
		return m, false, err
	}
	var host, container int
	var protocol, hostIP string
	// containerd writes these names with a capital, as Go's structs have them (containerd/go-cni, PortMapping).
	into := map[string]any{"hostport": &host, "containerport": &container, "protocol": &protocol, "hostip": &hostIP}
	for _, key := range sortedKeys(fields) {
		name := strings.ToLower(key)
		if into[name] == nil {
			return m, false, unsupported(what+"."+key, fields[key], "Polder knows containerPort, hostIP, hostPort and protocol, each once")
		}
		if err := decode(what+"."+key, fields[key], into[name]); err != nil {
			return m, false, err
		}
		delete(into, name)
	}
	if host == 0 {
		return m, false, nil
	}
	m.HostPort, m.ContainerPort = uint16(host), uint16(container)
	switch {
	case host < 0 || host > 0xffff:
		return m, false, fail(api.CodeInvalidConfig, "%s.hostPort: %d is not a port", what, host)
	case container <= 0 || container > 0xffff:
		return m, false, fail(api.CodeInvalidConfig, "%s.containerPort: %d is not a port", what, container)
	}
	if m.Protocol, err = parseProtocol(what, protocol); err == nil {
		m.HostIP, err = parseHostIP(what, hostIP)
	}
	return m, true, err
}

func parseProtocol(what, text string) (plain.Protocol, error) {
	for _, p := range []plain.Protocol{plain.TCP, plain.UDP, plain.SCTP} {
		if strings.ToUpper(text) == p.String() {
			return p, nil
		}
	}
	return 0, fail(api.CodeInvalidConfig, "%s.protocol: %s is none of tcp, udp and sctp", what, quote(text))
}

func parseHostIP(what, text string) (a netip.Addr, err error) {
	if text == "" {
		return a, nil
	}
	if a, err = netip.ParseAddr(text); err != nil {
		return a, fail(api.CodeInvalidConfig, "%s.hostIP: %s is not an IP address", what, quote(text))
	}
	return a.Unmap(), nil
}
