package main

import (
	"context"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/polder-net/polder/internal/api"
)

// reserve is ADD of the IPAM plugin: addresses for a link that is the caller's.
func reserve(ctx context.Context, c *call) ([]byte, error) {
	req := c.request(api.Reserve)
	if err := namePod(&req, c.env("CNI_ARGS")); err != nil {
		return nil, err
	}
	resp, err := c.ask(ctx, req, nil)
	if err != nil {
		return nil, err
	}
	if len(resp.Addresses) == 0 {
		return nil, fail(api.CodeInternal, "the agent's answer lacks the addresses")
	}
	routes := resp.Routes
	if len(routes) == 0 {
		routes = defaultRoutes(resp.Addresses)
	}
	return encodeResult(&types100.Result{IPs: encodeAddresses(resp.Addresses), Routes: encodeRoutes(routes)}, c.conf.version)
}

// defaultRoutes are 0.0.0.0/0 and ::/0, as far as there are addresses of the family.
func defaultRoutes(addresses []api.Address) []api.Route {
	var routes []api.Route
	seen := map[bool]bool{}
	for _, a := range addresses {
		is4 := a.Prefix.Addr().Is4()
		if seen[is4] {
			continue
		}
		seen[is4] = true
		any := netip.IPv6Unspecified()
		if is4 {
			any = netip.IPv4Unspecified()
		}
		routes = append(routes, api.Route{Dst: netip.PrefixFrom(any, 0)})
	}
	return routes
}

// release is DEL of the IPAM plugin. A reservation outlives its namespace, so without the agent it cannot be done.
func release(ctx context.Context, c *call) ([]byte, error) {
	_, err := c.ask(ctx, c.request(api.Release), nil)
	return nil, err
}

// reserved is CHECK of the IPAM plugin. The earlier result may have addresses of others beside ours.
func reserved(ctx context.Context, c *call) ([]byte, error) {
	prev, err := parseResult("prevResult", c.conf.prev, c.conf.version)
	if err != nil {
		return nil, err
	}
	req := c.request(api.Reserved)
	if req.Addresses, err = decodeAddresses(prev.IPs, everyAddress); err != nil {
		return nil, fail(api.CodeInvalidConfig, "prevResult: %v", err)
	}
	_, err = c.ask(ctx, req, nil)
	return nil, err
}

// gcReservations is GC of the IPAM plugin.
func gcReservations(ctx context.Context, c *call) ([]byte, error) {
	_, err := c.ask(ctx, api.Request{Verb: api.GC, Attachment: c.Attachment, Valid: c.conf.valid, IPAM: true}, nil)
	return nil, err
}
