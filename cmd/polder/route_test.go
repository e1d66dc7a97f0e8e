package main

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// blackhole makes the calling thread's network namespace swallow what goes to an address.
func blackhole(a netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{
		Dst:  &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		Type: unix.RTN_BLACKHOLE,
	})
}
