package explain

import (
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// ICMP is the protocol of a question about an echo request, in whichever family.
const ICMP cluster.Protocol = 1

// Question is what somebody wants to know.
type Question struct {
	From, To string           // see Ask
	Port     string           // a number or a name; may be empty where only one can be meant
	Protocol cluster.Protocol // TCP, UDP, SCTP or ICMP
}

// Answer is all that there is to say about a packet.
type Answer struct {
	From     End      `json:"from"`
	To       End      `json:"to"`
	Protocol string   `json:"protocol"`
	Port     uint16   `json:"port,omitempty"` // of what was asked for, before a Service chooses
	Service  *Service `json:"service,omitempty"`
	Ways     []Way    `json:"ways"` // those that differ; none where a Service has no backend for the client
	Allowed  bool     `json:"allowed"`
	Verdict  string   `json:"verdict"` // in one line
}

// End is one end of a packet's way, as it was asked for.
type End struct {
	Kind        string       `json:"kind"` // "pod", "node", "Service" or "address"
	Name        string       `json:"name,omitempty"`
	Node        string       `json:"node,omitempty"` // of a pod
	HostNetwork bool         `json:"hostNetwork,omitempty"`
	Addresses   []netip.Addr `json:"addresses"`
	Note        string       `json:"note,omitempty"` // how the name was understood
}

// Service is how a Service treats a client.
type Service struct {
	Name     string    `json:"name"`
	Port     string    `json:"port,omitempty"`
	Kind     string    `json:"kind"`               // "cluster IP", "node port" or "external address"
	Policy   string    `json:"policy"`             // "Cluster" or "Local"
	Traffic  string    `json:"traffic"`            // whose policy that is: "internal" or "external"
	Refusals []string  `json:"refusals,omitempty"` // what becomes of clients that get no backend
	Backends []Backend `json:"backends"`           // that may be chosen
}

// Backend is where a Service may send a client.
type Backend struct {
	Address netip.AddrPort `json:"address"`
	Pod     string         `json:"pod,omitempty"`
	Node    string         `json:"node,omitempty"`
}

// Way is what becomes of packets between Pairs, which are all treated alike.
type Way struct {
	Pairs   []Pair   `json:"pairs"`
	Routes  []string `json:"routes"`            // each once
	Notes   []string `json:"notes,omitempty"`   // what else is to be known of the way
	Egress  *Side    `json:"egress,omitempty"`  // nil: the sender has no policies
	Ingress *Side    `json:"ingress,omitempty"` // nil: the receiver has none
	Allowed bool     `json:"allowed"`
}

// Pair is two addresses; the port is the destination's. Who is at the other end is a pod, a node or empty.
type Pair struct {
	From netip.Addr     `json:"from"`
	To   netip.AddrPort `json:"to"`
	Who  string         `json:"who,omitempty"`
}

// Side is what the policies of one end say.
type Side struct {
	Pods     []string `json:"pods"` // whose: several, if their policies treat the packets alike
	Allowed  bool     `json:"allowed"`
	Reason   string   `json:"reason"`            // "rule", "isolated", "default", "own node" or "itself"
	Decided  []string `json:"decided,omitempty"` // the policy whose rule did, or those that isolate
	Rule     int      `json:"rule,omitempty"`    // from 1; 0: no rule decided
	RuleName string   `json:"ruleName,omitempty"`
	Policies []Policy `json:"policies,omitempty"` // all that select the pod in this direction, in the order in which they count
}

// Policy is one that selects a pod, and its first rule that matches.
type Policy struct {
	Object     string `json:"object"`
	Where      string `json:"where,omitempty"`    // file and line
	Tier       string `json:"tier"`               // "Admin", "NetworkPolicy" or "Baseline"
	Priority   *int32 `json:"priority,omitempty"` // nil: a NetworkPolicy has none
	Rule       int    `json:"rule,omitempty"`     // from 1; 0: none matches
	RuleName   string `json:"ruleName,omitempty"`
	Action     string `json:"action,omitempty"`     // "Accept", "Deny" or "Pass"
	NotReached bool   `json:"notReached,omitempty"` // it is not asked: all has been decided before
}
