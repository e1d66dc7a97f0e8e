package main

import (
	"context"
	"fmt"
	"os"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/polder-net/polder/internal/api"
)

// checkLink is CHECK of the main plugin. Behind another one, where the result lacks Polder's link, the guard alone is ours.
func checkLink(ctx context.Context, c *call) ([]byte, error) {
	prev, err := parseResult("prevResult", c.conf.prev, c.conf.version)
	if err != nil {
		return nil, err
	}
	netns, err := c.openNetns()
	if err != nil {
		return nil, err
	}
	defer netns.Close()
	host := c.ownHost(prev)
	if host == nil {
		return nil, checkBehind(ctx, c, prev, netns)
	}
	req, err := c.checkRequest(prev, host, netns)
	if err != nil {
		return nil, err
	}
	if c.conf.ipam != "" {
		if _, err := c.delegate(ctx, "CHECK"); err != nil {
			return nil, err
		}
	}
	_, err = c.ask(ctx, req, netns)
	return nil, err
}

// checkRequest says what ADD left, as its result has it.
func (c *call) checkRequest(prev *types100.Result, host *types100.Interface, netns *os.File) (api.Request, error) {
	req := c.request(api.Check)
	req.DelegatedIPAM = c.conf.ipam != ""
	req.PortMappings = c.conf.ports
	req.Host = &api.Interface{Name: host.Name, MAC: host.Mac, MTU: host.Mtu}
	index := -1
	for n, i := range prev.Interfaces {
		if i.Name == c.Ifname && i.Sandbox != "" {
			index = n
			req.Pod = &api.Interface{Name: i.Name, MAC: i.Mac, MTU: i.Mtu}
		}
	}
	if index < 0 {
		return req, fail(api.CodeInvalidConfig, "prevResult has no interface %s in a container", c.Ifname)
	}
	if err := sameNetns(prev.Interfaces[index].Sandbox, netns); err != nil {
		return req, fail(api.CodeNotAsExpected, "prevResult: interface %s: %v", c.Ifname, err)
	}
	var err error
	if req.Addresses, err = decodeAddresses(prev.IPs, func(ip *types100.IPConfig) bool {
		return ip.Interface == nil || *ip.Interface == index
	}); err == nil {
		req.Routes, err = decodeRoutes(prev.Routes)
	}
	if err != nil {
		return req, fail(api.CodeInvalidConfig, "prevResult: %v", err)
	}
	return req, nil
}

// sameNetns compares namespaces, not paths: one may be a link to the other.
func sameNetns(sandbox string, netns *os.File) error {
	there, err := os.Stat(sandbox)
	if err != nil {
		return err
	}
	here, err := netns.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(there, here) {
		return fmt.Errorf("sandbox %s is another namespace than CNI_NETNS", sandbox)
	}
	return nil
}
