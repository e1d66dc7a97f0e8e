package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/polder-net/polder/internal/api"
)

// parseResult reads a result of another plugin, or our own from earlier, into the newest form. One without a version
// has that of the configuration (containernetworking/cni#895).
func parseResult(what string, raw []byte, protocol string) (*types100.Result, error) {
	fields, err := object(what, raw)
	if err != nil {
		return nil, err
	}
	own, err := resultVersion(what, fields["cniVersion"], protocol)
	if err != nil {
		return nil, err
	}
	if err := refuseNulls(what, fields); err != nil {
		return nil, err
	}
	fields["cniVersion"], _ = json.Marshal(own)
	whole, err := json.Marshal(fields)
	if err != nil {
		return nil, fail(api.CodeDecode, "decode %s: %v", what, err)
	}
	result, err := version.NewResult(own, whole)
	if err != nil {
		return nil, fail(api.CodeDecode, "decode %s: %v", what, err)
	}
	newest, err := types100.NewResultFromResult(result)
	if err == nil {
		err = complete(newest)
	}
	if err != nil {
		return nil, fail(api.CodeDecode, "decode %s: %v", what, err)
	}
	return newest, nil
}

func resultVersion(what string, field json.RawMessage, protocol string) (string, error) {
	own := protocol
	if err := decode(what+".cniVersion", field, &own); err != nil {
		return "", err
	}
	if own == "" {
		own = protocol
	}
	if !slices.Contains(supported(), own) {
		return "", fail(api.CodeIncompatible, "%s has cniVersion %s, which is not supported", what, quote(own))
	}
	return own, nil
}

// refuseNulls finds what the library's converters trip over.
func refuseNulls(what string, fields map[string]json.RawMessage) error {
	for _, list := range []string{"interfaces", "ips", "routes"} {
		var entries []json.RawMessage
		if err := decode(what+"."+list, fields[list], &entries); err != nil {
			return err
		}
		if slices.ContainsFunc(entries, null) {
			return fail(api.CodeDecode, "decode %s.%s: an entry is null", what, list)
		}
	}
	return nil
}

// complete finds what the library lets pass, and would print as "<nil>".
func complete(result *types100.Result) error {
	for _, ip := range result.IPs {
		if ip.Address.IP == nil {
			return errors.New("one of ips has no address")
		}
	}
	for _, r := range result.Routes {
		if r.Dst.IP == nil {
			return errors.New("one of routes has no dst")
		}
	}
	return nil
}

// passOn is the answer to ADD behind another plugin: its result as it came, with fields that this version of ours
// does not know, unless it is in another version than the configuration.
func passOn(conf config) ([]byte, error) {
	result, err := parseResult("prevResult", conf.prev, conf.version)
	if err != nil {
		return nil, err
	}
	fields, err := object("prevResult", conf.prev)
	if err != nil {
		return nil, err
	}
	own := conf.version
	if err := decode("prevResult.cniVersion", fields["cniVersion"], &own); err != nil {
		return nil, err
	}
	if own != conf.version && own != "" {
		return encodeResult(result, conf.version)
	}
	fields["cniVersion"], _ = json.Marshal(conf.version)
	return json.Marshal(fields)
}

// encodeResult writes a result in the version of the configuration.
func encodeResult(result *types100.Result, protocol string) ([]byte, error) {
	if newest, err := version.GreaterThanOrEqualTo(protocol, "1.1.0"); err != nil || !newest {
		for _, i := range result.Interfaces {
			i.Mtu = 0 // came with 1.1.0, as that of routes; the library leaves both in
		}
		for _, r := range result.Routes {
			r.MTU = 0
		}
	}
	result.CNIVersion = version.Current()
	converted, err := result.GetAsVersion(protocol)
	if err != nil {
		return nil, fail(api.CodeInternal, "encode result: %v", err)
	}
	out, err := json.MarshalIndent(converted, "", "    ")
	if err != nil {
		return nil, fail(api.CodeInternal, "encode result: %v", err)
	}
	return out, nil
}

// linkResult makes a result of the agent's answer to Add.
func linkResult(host, pod *api.Interface, netns string, addresses []api.Address, routes []api.Route, dns types.DNS) *types100.Result {
	result := &types100.Result{
		Interfaces: []*types100.Interface{
			{Name: host.Name, Mac: host.MAC, Mtu: host.MTU},
			{Name: pod.Name, Mac: pod.MAC, Mtu: pod.MTU, Sandbox: netns},
		},
		IPs: encodeAddresses(addresses), Routes: encodeRoutes(routes), DNS: dns,
	}
	for _, ip := range result.IPs {
		ip.Interface = types100.Int(1)
	}
	return result
}

func encodeAddresses(addresses []api.Address) []*types100.IPConfig {
	var ips []*types100.IPConfig
	for _, a := range addresses {
		ips = append(ips, &types100.IPConfig{Address: encodePrefix(a.Prefix), Gateway: a.Gateway.AsSlice()})
	}
	return ips
}

func encodeRoutes(routes []api.Route) []*types.Route {
	var out []*types.Route
	for _, r := range routes {
		out = append(out, &types.Route{Dst: encodePrefix(r.Dst), GW: r.Via.AsSlice(), MTU: r.MTU})
	}
	return out
}

func encodePrefix(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// decodeAddresses takes a result's addresses for which keep is true.
func decodeAddresses(ips []*types100.IPConfig, keep func(*types100.IPConfig) bool) ([]api.Address, error) {
	var out []api.Address
	for _, ip := range ips {
		if !keep(ip) {
			continue
		}
		prefix, err := decodePrefix(ip.Address)
		if err != nil {
			return nil, err
		}
		gateway, err := decodeIP(ip.Gateway)
		if err != nil {
			return nil, err
		}
		a := api.Address{Prefix: prefix, Gateway: gateway}
		if err := a.Validate(); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func everyAddress(*types100.IPConfig) bool { return true }

// decodeRoutes takes a result's routes with what Polder knows of one.
func decodeRoutes(routes []*types.Route) ([]api.Route, error) {
	var out []api.Route
	for _, r := range routes {
		dst, err := decodePrefix(r.Dst)
		if err != nil {
			return nil, err
		}
		via, err := decodeIP(r.GW)
		if err != nil {
			return nil, err
		}
		route := api.Route{Dst: dst.Masked(), Via: via, MTU: r.MTU}
		if err := route.Validate(); err != nil {
			return nil, err
		}
		out = append(out, route)
	}
	return out, nil
}

// decodePrefix turns the library's form into ours. Of an IPv4 address the library keeps 16 bytes beside a mask of 4.
func decodePrefix(n net.IPNet) (netip.Prefix, error) {
	ones, bits := n.Mask.Size()
	addr, ok := netip.AddrFromSlice(n.IP)
	if ok && bits == 32 {
		addr = addr.Unmap()
	}
	if !ok || bits == 0 || addr.BitLen() != bits {
		return netip.Prefix{}, fmt.Errorf("address %v cannot be", n)
	}
	return netip.PrefixFrom(addr, ones), nil
}

func decodeIP(ip net.IP) (netip.Addr, error) {
	if len(ip) == 0 {
		return netip.Addr{}, nil
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address %v cannot be", ip)
	}
	return addr.Unmap(), nil
}
