package rig

import (
	"fmt"
	"net/netip"
	"strings"
)

// Peers and Ports are what rules of policies let in and out: so many addresses at so many ports.
const (
	Peers = 1000
	Ports = 10
)

// FirstPort is the first of Ports.
const FirstPort = 5200

// Peer is the address of one of Peers that is no pod here.
func Peer(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 240, byte(i >> 8), byte(i)}) }

// loadRules puts a table as agents for policies write it into the current namespace: what connection tracking knows
// passes, and of the rest that both ends of which are asked for, by sets of addresses and ports. Both pods are isolated both
// ways.
func loadRules() error { return loadTable("rules of policies", rulesTable()) }

func rulesTable() string {
	var peers strings.Builder
	for i := range Peers {
		addr := Peer(i)
		if i < 2 {
			addr = podAddress(i)
		}
		for port := range Ports {
			fmt.Fprintf(&peers, "%s . %d, ", addr, FirstPort+port)
		}
	}
	return fmt.Sprintf(`table ip policies {
	set isolated { type ipv4_addr; elements = { %s, %s } }
	set ingress-peers { type ipv4_addr . inet_service; elements = { %s } }
	set egress-peers { type ipv4_addr . inet_service; elements = { %s } }
	chain egress { ip daddr . tcp dport @egress-peers return; drop; }
	chain ingress { ip saddr . tcp dport @ingress-peers return; drop; }
	chain forward { type filter hook forward priority filter; policy accept;
		ct state established,related accept
		ip saddr @isolated jump egress
		ip daddr @isolated jump ingress
	}
}
`, podAddress(0), podAddress(1), peers.String(), peers.String())
}
