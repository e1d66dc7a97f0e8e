package api

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain fails when descriptors are left open at the end.
func TestMain(m *testing.M) {
	before := descriptors()
	code := m.Run()
	for end := time.Now().Add(5 * time.Second); descriptors() > before && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if after := descriptors(); code == 0 && after > before && os.Getenv("GO_FUZZING") == "" {
		fmt.Fprintf(os.Stderr, "%d descriptors are open, %d were\n", after, before)
		code = 1
	}
	os.Exit(code)
}

// descriptors counts this process's open files. It leaves out what the Go runtime opens once and keeps.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") {
			n++
		}
	}
	return n
}

func TestHostLinkIsStableAndFitsAName(t *testing.T) {
	a := Attachment{Network: "polder", ContainerID: "c1", Ifname: "eth0"}
	if got := a.HostLink(); got != "pdr4825b74b054" {
		t.Errorf("name of the link is %q: agents would not find the links of those before them", got)
	}
	seen := map[string]Attachment{}
	for _, other := range []Attachment{a, {"polder", "c1", "eth1"}, {"polder", "c2", "eth0"}, {"other", "c1", "eth0"}, {"polderc1", "c1", "eth0"}} {
		name := other.HostLink()
		if err := ValidateIfname(name); err != nil {
			t.Error(err)
		}
		if before, twice := seen[name]; twice {
			t.Errorf("%v and %v have the same link", before, other)
		}
		seen[name] = other
	}
}

// A record of netdev's must hold the longest attachment with an address of each family.
func TestLongestAttachmentFitsARecord(t *testing.T) {
	longest := strings.Repeat("a", maxAttachment) + "  " // of three words
	addresses := "255.255.255.255," + strings.Repeat("ffff:", 7) + "ffff"
	if n := len("pdr2s " + longest + " " + addresses + " 01234567"); n > 255 {
		t.Errorf("%d bytes, an ifalias has 255", n)
	}
}

func TestValidateRefusesWhatCannotBe(t *testing.T) {
	good := Attachment{Network: "net-1.a_B", ContainerID: "0123abcDEF_.-", Ifname: "eth0"}
	long := func(n int) string { return strings.Repeat("a", n) }
	attach := func(change func(*Attachment)) Request {
		r := Request{Verb: Del, Attachment: good}
		change(&r.Attachment)
		return r
	}
	address := func(prefix, gateway string) Request {
		a := Address{Prefix: netip.MustParsePrefix(prefix)}
		if gateway != "" {
			a.Gateway = netip.MustParseAddr(gateway)
		}
		return Request{Verb: Add, Attachment: good, Addresses: []Address{a}}
	}
	route := func(dst, via string) Request {
		r := Route{Dst: netip.MustParsePrefix(dst)}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		return Request{Verb: Add, Attachment: good, Routes: []Route{r}}
	}
	for name, test := range map[string]struct {
		req Request
		ok  bool
	}{
		"plain":                   {Request{Verb: Del, Attachment: good}, true},
		"no verb":                 {Request{Attachment: good}, false},
		"unknown verb":            {Request{Verb: "ADD", Attachment: good}, false},
		"no network":              {attach(func(a *Attachment) { a.Network = "" }), false},
		"network climbs":          {attach(func(a *Attachment) { a.Network = "../x" }), false},
		"network dot":             {attach(func(a *Attachment) { a.Network = "." }), false},
		"network 63":              {attach(func(a *Attachment) { a.Network = long(63) }), true},
		"network 64":              {attach(func(a *Attachment) { a.Network = long(64) }), false},
		"network with space":      {attach(func(a *Attachment) { a.Network = "a b" }), false},
		"container climbs":        {attach(func(a *Attachment) { a.ContainerID = "a/../../b" }), false},
		"container unicode":       {attach(func(a *Attachment) { a.ContainerID = "cé" }), false},
		"container newline":       {attach(func(a *Attachment) { a.ContainerID = "c\n" }), false},
		"container NUL":           {attach(func(a *Attachment) { a.ContainerID = "c\x00" }), false},
		"container 128":           {attach(func(a *Attachment) { a.ContainerID = long(128) }), true},
		"container 129":           {attach(func(a *Attachment) { a.ContainerID = long(129) }), false},
		"all three too long":      {attach(func(a *Attachment) { a.ContainerID, a.Network = long(128), long(60) }), false},
		"no ifname":               {attach(func(a *Attachment) { a.Ifname = "" }), false},
		"ifname 15":               {attach(func(a *Attachment) { a.Ifname = long(15) }), true},
		"ifname 16":               {attach(func(a *Attachment) { a.Ifname = long(16) }), false},
		"ifname dots":             {attach(func(a *Attachment) { a.Ifname = ".." }), false},
		"ifname slash":            {attach(func(a *Attachment) { a.Ifname = "a/b" }), false},
		"ifname colon":            {attach(func(a *Attachment) { a.Ifname = "eth0:1" }), false},
		"ifname space":            {attach(func(a *Attachment) { a.Ifname = "eth 0" }), false},
		"ifname wide space":       {attach(func(a *Attachment) { a.Ifname = "eth\u3000" }), false},
		"ifname template":         {attach(func(a *Attachment) { a.Ifname = "eth%d" }), false},
		"ifname invalid UTF-8":    {attach(func(a *Attachment) { a.Ifname = "eth\xff" }), false},
		"ifname letter":           {attach(func(a *Attachment) { a.Ifname = "größe0" }), true},
		"pod":                     {Request{Verb: Del, Attachment: good, PodNamespace: "default", PodName: "web-0.x"}, true},
		"pod without namespace":   {Request{Verb: Del, Attachment: good, PodName: "web"}, false},
		"pod with space":          {Request{Verb: Del, Attachment: good, PodNamespace: "default", PodName: "a b"}, false},
		"pod climbs":              {Request{Verb: Del, Attachment: good, PodNamespace: "a/..", PodName: "b"}, false},
		"pod 254":                 {Request{Verb: Del, Attachment: good, PodNamespace: "a", PodName: long(254)}, false},
		"address":                 {address("10.0.0.2/24", "10.0.0.1"), true},
		"address v6":              {address("fd00::2/64", "fe80::1"), true},
		"address mapped":          {address("::ffff:10.0.0.2/120", ""), false},
		"address loopback":        {address("127.0.0.1/8", ""), false},
		"address unspecified":     {address("::/0", ""), false},
		"address multicast":       {address("224.0.0.1/32", ""), false},
		"address link-local":      {address("169.254.0.1/16", ""), false},
		"address broadcast":       {address("255.255.255.255/32", ""), false},
		"gateway of other family": {address("10.0.0.2/24", "fd00::1"), false},
		"no address":              {Request{Verb: Add, Attachment: good, Addresses: []Address{{}}}, false},
		"route":                   {route("10.0.0.0/8", "10.0.0.1"), true},
		"route unmasked":          {route("10.0.0.1/8", ""), false},
		"route of other family":   {route("10.0.0.0/8", "fd00::1"), false},
		"end":                     {Request{Verb: Check, Attachment: good, Pod: &Interface{Name: "eth0", MAC: "02:00:00:00:00:01"}}, true},
		"end with bad MAC":        {Request{Verb: Check, Attachment: good, Pod: &Interface{Name: "eth0", MAC: "02:00"}}, false},
		"end with bad name":       {Request{Verb: Check, Attachment: good, Host: &Interface{Name: "a b"}}, false},
		"gc":                      {Request{Verb: GC, Attachment: Attachment{Network: "n"}, Valid: []Attachment{}}, true},
		"gc without list":         {Request{Verb: GC, Attachment: Attachment{Network: "n"}}, false},
		"gc without network":      {Request{Verb: GC, Valid: []Attachment{}}, false},
		"gc of another network":   {Request{Verb: GC, Attachment: Attachment{Network: "n"}, Valid: []Attachment{good}}, false},
		"gc with bad attachment":  {Request{Verb: GC, Attachment: Attachment{Network: "n"}, Valid: []Attachment{{"n", "..", "eth0"}}}, false},
		"status":                  {Request{Verb: Status}, true},
		"status of bad network":   {Request{Verb: Status, Attachment: Attachment{Network: "a b"}}, false},
		"report":                  {Request{Verb: Report}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.req.Validate(); (err == nil) != test.ok {
				t.Errorf("ok %v, but: %v", test.ok, err)
			}
		})
	}
}
