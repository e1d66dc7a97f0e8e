package main

import (
	"context"
	"errors"
	"os"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/polder-net/polder/internal/api"
)

// addBehind is ADD behind another plugin: the agent guards the pod's link by its policies, and the other's result is
// passed on as it came. Without an agent there is no ADD: the pod would be open until there is one.
func addBehind(ctx context.Context, c *call) ([]byte, error) {
	out, err := passOn(c.conf)
	if err != nil {
		return nil, err
	}
	prev, err := parseResult("prevResult", c.conf.prev, c.conf.version)
	if err != nil {
		return nil, err
	}
	req, guarded, err := c.behindRequest(api.Add, prev)
	if err != nil || !guarded {
		return out, err
	}
	if err := namePod(&req, c.env("CNI_ARGS")); err != nil {
		return nil, err
	}
	req.Shaped = c.conf.shaped
	netns, err := c.openNetns()
	if err != nil {
		return nil, err
	}
	defer netns.Close()
	if _, err := c.ask(ctx, req, netns); err != nil {
		return nil, c.undoBehind(ctx, netns, err)
	}
	return out, nil
}

// undoBehind takes the guard away again, if there may be one.
func (c *call) undoBehind(ctx context.Context, netns *os.File, err error) error {
	var refused *api.Error
	if errors.Is(err, api.ErrNoAgent) || errors.As(err, &refused) && refused.Code != api.CodeInternal {
		return err
	}
	_, delErr := c.ask(ctx, c.request(api.Del), netns)
	return gather("ADD", err, delErr)
}

// behindRequest is about the interface that another plugin gave the container, and whether it has addresses: without
// any there is nothing to guard.
func (c *call) behindRequest(verb api.Verb, prev *types100.Result) (req api.Request, guarded bool, err error) {
	req = c.request(verb)
	req.Behind = true
	index := -1
	for n, i := range prev.Interfaces {
		if i.Name == c.Ifname && i.Sandbox != "" {
			index = n
			req.Pod = &api.Interface{Name: i.Name, MAC: i.Mac, MTU: i.Mtu}
		}
	}
	req.Addresses, err = decodeAddresses(prev.IPs, func(ip *types100.IPConfig) bool {
		return ip.Interface == nil || *ip.Interface == index
	})
	if err != nil {
		return req, false, fail(api.CodeInvalidConfig, "prevResult: %v", err)
	}
	for i := range req.Addresses { // its gateway is the other plugin's business
		req.Addresses[i] = api.Address{Prefix: req.Addresses[i].Prefix}
	}
	return req, len(req.Addresses) > 0, nil
}

// checkBehind is CHECK behind another plugin: the guard is still there.
func checkBehind(ctx context.Context, c *call, prev *types100.Result, netns *os.File) error {
	req, guarded, err := c.behindRequest(api.Check, prev)
	if err != nil || !guarded {
		return err
	}
	_, err = c.ask(ctx, req, netns)
	return err
}
