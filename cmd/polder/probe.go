package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"

	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/probe"
)

// probeNode is the prober of this node: a coordinator, which is 'polder check' somewhere, talks to it by standard
// input and output.
func probeNode(e env, args []string) error {
	f := newFlags("probe", "", "Carries probes out on this node, as 'polder check' asks by standard input.")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	return servePods(e.stdin, e.stdout)
}

func servePods(in io.Reader, out io.Writer) error {
	kernel, err := netdev.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return fmt.Errorf("look for pods: %w", err)
	}
	defer kernel.Close()
	return probe.Serve(in, out, func() ([]probe.Namespace, error) {
		found, err := kernel.PodNamespaces()
		if err != nil {
			return nil, err
		}
		var list []probe.Namespace
		for _, n := range found {
			pod := probe.Namespace{Netns: n.Netns, Link: n.Link, Ifname: n.Ifname, MTU: n.MTU}
			for _, p := range n.Addresses {
				pod.Addresses = append(pod.Addresses, p.Addr())
			}
			list = append(list, pod)
		}
		return list, nil
	})
}

// connectHere runs a prober inside this process.
func connectHere(context.Context) (io.ReadWriteCloser, error) {
	ours, its := net.Pipe()
	go func() { // ends when the coordinator closes its side
		defer its.Close()
		servePods(its, its) // what goes wrong, it tells the coordinator
	}()
	return ours, nil
}

// ownAddresses are the addresses by which this node might be reached, where no object says.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list own addresses: %w", err)
	}
	var list []netip.Addr
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().IsGlobalUnicast() {
			list = append(list, p.Addr().Unmap())
		}
	}
	return list, nil
}
