package api

import (
	"net/netip"
	"time"
)

// DropsRequest asks what policies did not let pass.
type DropsRequest struct {
	// Follow: packets as they are dropped, after the one that an earlier report called its Last; 0: from now on. The
	// agent answers as soon as there is one, or after some seconds without any.
	Follow bool   `json:"follow,omitempty"`
	After  uint64 `json:"after,omitempty"`
}

// DropsReport is what the agent answers to the verb Drops. A field may be added; none is renamed or changes its meaning.
type DropsReport struct {
	Node   string      `json:"node"`
	Counts []DropCount `json:"counts,omitempty"` // sorted by pod; without Follow

	// With Follow. Of a flood not every packet is told; the counters have them all.
	Drops  []Drop `json:"drops,omitempty"`
	Last   uint64 `json:"last,omitempty"`
	Missed uint64 `json:"missed,omitempty"` // came between After and the first of Drops, and are forgotten
}

// Drop is a packet that a policy of one of its ends did not let pass.
type Drop struct {
	Time      time.Time `json:"time"`
	Direction string    `json:"direction"` // of the pod whose policy it was: "ingress" or "egress"
	Protocol  string    `json:"protocol"`
	From      DropEnd   `json:"from"`
	To        DropEnd   `json:"to"`
	Reason    string    `json:"reason"`             // in words
	Policies  []string  `json:"policies,omitempty"` // that decided, or that isolate the pod: "NetworkPolicy/default/web"
}

// DropEnd is one end of a packet.
type DropEnd struct {
	Pod     string     `json:"pod,omitempty"` // "namespace/name"; empty: none that is known
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port,omitempty"` // 0: the protocol has none
}

// DropCount is how many packets of a pod its policies did not let pass, by what decided.
type DropCount struct {
	Pod       string   `json:"pod"`                 // "namespace/name", or the link where no pod is known
	Direction string   `json:"direction,omitempty"` // empty: not known any more
	Reason    string   `json:"reason"`
	Policies  []string `json:"policies,omitempty"`
	Packets   uint64   `json:"packets"`
}
