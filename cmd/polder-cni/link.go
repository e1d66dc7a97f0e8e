package main

import (
	"context"
	"errors"
	"net"
	"os"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/polder-net/polder/internal/api"
)

// addLink is ADD of the main plugin; behind another one, which the presence of its result says, it has the link guarded.
func addLink(ctx context.Context, c *call) ([]byte, error) {
	if c.conf.prev != nil {
		return addBehind(ctx, c)
	}
	req := c.request(api.Add)
	req.Masquerade, req.Shaped, req.PortMappings = c.conf.masquerade, c.conf.shaped, c.conf.ports
	if err := namePod(&req, c.env("CNI_ARGS")); err != nil {
		return nil, err
	}
	netns, err := c.openNetns()
	if err != nil {
		return nil, err
	}
	defer netns.Close()
	dns := c.conf.dns
	if c.conf.ipam != "" {
		given, err := c.delegateForLink(ctx)
		if err != nil {
			return nil, err
		}
		req.DelegatedIPAM, req.Addresses, req.Routes = true, given.addresses, given.routes
		if dns.IsEmpty() {
			dns = given.dns
		}
	}
	resp, err := c.ask(ctx, req, netns)
	if err == nil {
		err = checkAnswer(req, resp)
	}
	if err != nil {
		return nil, c.undoAdd(ctx, netns, err)
	}
	out, err := encodeResult(linkResult(resp.Host, resp.Pod, c.netns, resp.Addresses, resp.Routes, dns), c.conf.version)
	if err != nil {
		return nil, c.undoAdd(ctx, netns, err)
	}
	return out, nil
}

// delegateForLink gets addresses, unless the attachment has its link already: then its addresses are in use, and the
// DEL which follows a plugin's failed ADD would free them.
func (c *call) delegateForLink(ctx context.Context) (granted, error) {
	if _, err := net.InterfaceByName(c.HostLink()); err == nil {
		return granted{}, fail(api.CodeExists, "container %s has interface %s already", c.ContainerID, c.Ifname)
	}
	return c.delegateAdd(ctx)
}

// checkAnswer says why the agent's answer to Add cannot be right. The host side's name is how CHECK and DEL know that
// a result is Polder's.
func checkAnswer(req api.Request, resp api.Response) error {
	switch {
	case resp.Host == nil || resp.Pod == nil || len(resp.Addresses) == 0:
		return fail(api.CodeInternal, "the agent's answer lacks an interface or the addresses")
	case resp.Host.Name != req.HostLink() || resp.Pod.Name != req.Ifname:
		return fail(api.CodeInternal, "the agent's answer is about %s and %s, not %s and %s", resp.Host.Name, resp.Pod.Name, req.HostLink(), req.Ifname)
	}
	return nil
}

// undoAdd takes back what a failed ADD may have left, and returns the error. When the agent has refused, or was not
// there, it has done nothing. After anything else it may have; then addresses of a delegated plugin are freed only
// once no link holds them, at the latest by the DEL that a runtime must send.
func (c *call) undoAdd(ctx context.Context, netns *os.File, err error) error {
	var refused *api.Error
	if !errors.Is(err, api.ErrNoAgent) && (!errors.As(err, &refused) || refused.Code == api.CodeInternal) {
		if _, delErr := c.ask(ctx, c.request(api.Del), netns); delErr != nil {
			return gather("ADD", err, delErr)
		}
	}
	if c.conf.ipam == "" {
		return err
	}
	_, delErr := c.delegate(ctx, "DEL")
	return gather("ADD", err, delErr)
}

// delLink is DEL of the main plugin. Which role ADD had cannot be told from the configuration, so the agent is asked
// in any case; it knows whether there is a link. The addresses of a delegated plugin are freed after the link is gone.
func delLink(ctx context.Context, c *call) ([]byte, error) {
	var netns *os.File
	gone := c.netns == ""
	if !gone {
		var err error
		if netns, err = c.openNetns(); err == nil {
			defer netns.Close()
		}
		gone = netnsGone(c.netns)
	}
	foreign := c.foreign()
	_, err := c.ask(ctx, c.request(api.Del), netns)
	if errors.Is(err, api.ErrNoAgent) && (gone || foreign) {
		err = nil // the link went with its namespace, or never was; the agent sees that when it starts
	}
	if err != nil || foreign || c.conf.ipam == "" {
		return nil, err
	}
	_, err = c.delegate(ctx, "DEL")
	return nil, err
}

// netnsGone tells whether a path leads to no network namespace any more: to nothing, or to the empty file on which
// one was mounted. When it cannot be looked at, it may be there.
func netnsGone(path string) bool {
	f, err := api.OpenNetns(path)
	if err == nil {
		f.Close()
	}
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, api.ErrNotNetns)
}

// foreign tells whether the earlier result shows that the link is another plugin's. Without one, or with one that
// cannot be read, it does not show that.
func (c *call) foreign() bool {
	if c.conf.prev == nil {
		return false
	}
	prev, err := parseResult("prevResult", c.conf.prev, c.conf.version)
	return err == nil && c.ownHost(prev) == nil
}

// ownHost finds the host side of the attachment's link in a result.
func (c *call) ownHost(result *types100.Result) *types100.Interface {
	for _, i := range result.Interfaces {
		if i.Name == c.HostLink() && i.Sandbox == "" {
			return i
		}
	}
	return nil
}

// gcLinks is GC of the main plugin. The delegated plugin gets its turn whatever became of ours.
func gcLinks(ctx context.Context, c *call) ([]byte, error) {
	req := api.Request{Verb: api.GC, Attachment: c.Attachment, Valid: c.conf.valid}
	_, err := c.ask(ctx, req, nil)
	var delegateErr error
	if c.conf.ipam != "" {
		_, delegateErr = c.delegate(ctx, "GC")
	}
	return nil, gather("GC", err, delegateErr)
}
