package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

// fakeAgent is an agent that keeps its links in memory instead of in the kernel, and behaves as one otherwise.
type fakeAgent struct {
	mu       sync.Mutex
	links    map[api.Attachment]api.Response
	guarded  map[api.Attachment][]api.Address // of another plugin
	reserved map[api.Attachment][]api.Address
	next     netip.Addr
	requests []api.Request
	netns    []bool                 // whether one came, for each request
	refuse   map[api.Verb]api.Error // what is refused
	vanish   map[api.Verb]bool      // what is done but never answered
	stop     func()
}

func startAgent(t *testing.T, socket string) *fakeAgent {
	t.Helper()
	a := &fakeAgent{
		links: map[api.Attachment]api.Response{}, guarded: map[api.Attachment][]api.Address{}, reserved: map[api.Attachment][]api.Address{},
		refuse: map[api.Verb]api.Error{}, vanish: map[api.Verb]bool{}, next: netip.MustParseAddr("10.9.0.2"),
	}
	l, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Serve(ctx, l, a.handle) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent ended: %v", err)
		}
	})
	t.Cleanup(a.stop)
	return a
}

func refusal(code uint, format string, args ...any) api.Response {
	return api.Response{Error: &api.Error{Code: code, Msg: fmt.Sprintf(format, args...)}}
}

func (a *fakeAgent) handle(ctx context.Context, req api.Request, netns *os.File) api.Response {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, req)
	a.netns = append(a.netns, netns != nil)
	if e, ok := a.refuse[req.Verb]; ok {
		return api.Response{Error: &e}
	}
	resp := a.do(req)
	if a.vanish[req.Verb] {
		return refusal(api.CodeInternal, "something is wrong after it was done")
	}
	return resp
}

func (a *fakeAgent) do(req api.Request) api.Response {
	switch {
	case req.Behind && req.Verb == api.Add:
		a.guarded[req.Attachment] = req.Addresses
		return api.Response{}
	case req.Behind && !slices.Equal(a.guarded[req.Attachment], req.Addresses):
		return refusal(api.CodeUnknownContainer, "guarded is %v", a.guarded[req.Attachment])
	case req.Behind:
		return api.Response{}
	}
	switch req.Verb {
	case api.Add:
		return a.add(req)
	case api.Del:
		delete(a.links, req.Attachment)
		delete(a.guarded, req.Attachment)
	case api.Check:
		return a.check(req)
	case api.GC:
		for at := range a.links {
			if at.Network == req.Network && !req.IPAM && !slices.Contains(req.Valid, at) {
				delete(a.links, at)
			}
		}
		for at := range a.reserved {
			if at.Network == req.Network && req.IPAM && !slices.Contains(req.Valid, at) {
				delete(a.reserved, at)
			}
		}
	case api.Reserve:
		if _, twice := a.reserved[req.Attachment]; !twice {
			a.reserved[req.Attachment] = a.addresses()
		}
		return api.Response{Addresses: a.reserved[req.Attachment]}
	case api.Release:
		delete(a.reserved, req.Attachment)
	case api.Reserved:
		for _, held := range a.reserved[req.Attachment] {
			if !slices.ContainsFunc(req.Addresses, func(x api.Address) bool { return x.Prefix.Addr() == held.Prefix.Addr() }) {
				return refusal(api.CodeNotAsExpected, "%s is reserved instead", held.Prefix)
			}
		}
		if len(a.reserved[req.Attachment]) == 0 {
			return refusal(api.CodeNotAsExpected, "nothing is reserved")
		}
	}
	return api.Response{}
}

func (a *fakeAgent) addresses() []api.Address {
	a.next = a.next.Next()
	b := a.next.As4()
	return []api.Address{
		{Prefix: netip.PrefixFrom(a.next, 32), Gateway: netip.MustParseAddr("169.254.1.1")},
		{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:9::%x/128", b[3])), Gateway: netip.MustParseAddr("fe80::1")},
	}
}

func (a *fakeAgent) add(req api.Request) api.Response {
	if _, twice := a.links[req.Attachment]; twice {
		return refusal(api.CodeExists, "interface %s exists", req.Ifname)
	}
	addresses := req.Addresses
	if !req.DelegatedIPAM {
		addresses = a.addresses()
	}
	routes := req.Routes
	for _, dst := range []string{"0.0.0.0/0", "::/0"} {
		routes = append(routes, api.Route{Dst: netip.MustParsePrefix(dst), MTU: 1450})
	}
	routes[0].Via = netip.MustParseAddr("169.254.1.1")
	resp := api.Response{
		Host:      &api.Interface{Name: req.HostLink(), MAC: "ee:ee:ee:ee:ee:ee", MTU: 1450},
		Pod:       &api.Interface{Name: req.Ifname, MAC: "02:00:00:00:00:01", MTU: 1450},
		Addresses: addresses, Routes: routes,
	}
	a.links[req.Attachment] = resp
	return resp
}

func (a *fakeAgent) check(req api.Request) api.Response {
	link, ok := a.links[req.Attachment]
	switch {
	case !ok:
		return refusal(api.CodeNotAsExpected, "no link")
	case req.Host == nil || req.Pod == nil || req.Host.MAC != link.Host.MAC || req.Pod.MAC != link.Pod.MAC:
		return refusal(api.CodeNotAsExpected, "other ends")
	case !slices.Equal(req.Addresses, link.Addresses):
		return refusal(api.CodeNotAsExpected, "addresses %v, not %v", link.Addresses, req.Addresses)
	}
	return api.Response{}
}

// asked returns the verbs that the agent got since the last time.
func (a *fakeAgent) asked() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var verbs []string
	for _, req := range a.requests {
		verbs = append(verbs, string(req.Verb))
	}
	a.requests, a.netns = nil, nil
	return strings.Join(verbs, " ")
}

// last returns the latest request and whether a namespace came with it.
func (a *fakeAgent) last(t *testing.T) (api.Request, bool) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.requests) == 0 {
		t.Fatal("the agent was not asked")
	}
	return a.requests[len(a.requests)-1], a.netns[len(a.netns)-1]
}

// held counts links and reservations.
func (a *fakeAgent) held() (links, reservations int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.links), len(a.reserved)
}

// change sets how the agent behaves from now on.
func (a *fakeAgent) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}
