// Package probe proves with packets that nodes and pods reach each other as the network's laws say. A prober runs on
// every node: it opens sockets inside the node's and its pods' own network namespaces, answers those of others and
// connects to them as it is told. A coordinator tells them, and judges. The package must not ask the agent anything:
// what it trusts is what sockets say, and what the cluster's objects say about addresses.
package probe

import (
	"net/netip"
	"os"
)

// Namespace is a pod's network namespace, as the node's kernel shows it.
type Namespace struct {
	Netns     *os.File
	Link      string       // the host side's name
	Ifname    string       // inside the pod
	Addresses []netip.Addr // inside the pod
	MTU       int          // bytes
}

// Between coordinator and prober go JSON values, a line each. The first one each way is the greeting.

// toProber is what the coordinator sends: first Hello, then any number of Dials.
type toProber struct {
	Hello *hello `json:"hello,omitempty"`
	Dial  *dial  `json:"dial,omitempty"`
}

// fromProber is what a prober sends: first Ready, then a Result for each dial, in no order.
type fromProber struct {
	Ready  *ready  `json:"ready,omitempty"`
	Result *result `json:"result,omitempty"`
}

// hello tells a prober which node it is on.
type hello struct {
	Node      string       `json:"node"`
	Addresses []netip.Addr `json:"addresses"` // where the node itself is to listen
}

// ready lists where a prober listens. Endpoint 0 is the node itself.
type ready struct {
	Endpoints []endpoint `json:"endpoints"`
	Error     string     `json:"error,omitempty"`
}

// endpoint is a node or a pod of the prober's node.
type endpoint struct {
	Link      string     `json:"link,omitempty"`
	Ifname    string     `json:"ifname,omitempty"`
	MTU       int        `json:"mtu,omitempty"`
	Listeners []listener `json:"listeners,omitempty"`
}

// listener is one address of an endpoint.
type listener struct {
	Address netip.Addr `json:"address"`
	TCP     uint16     `json:"tcp,omitempty"`
	UDP     uint16     `json:"udp,omitempty"`
	Error   string     `json:"error,omitempty"` // why it does not listen
}

// kind is what a dial tries.
type kind string

const (
	tcp  kind = "tcp"
	udp  kind = "udp"
	full kind = "full-size" // one UDP datagram that fills the path's MTU, with "don't fragment" set

	// Does a packet get there at all, whoever answers?
	reachTCP kind = "reach-tcp"
	reachUDP kind = "reach-udp"
)

// dial asks for one probe. The kernel chooses the source address: it is what is on trial.
type dial struct {
	ID   int        `json:"id"`
	From int        `json:"from"` // the endpoint, by its place in the list
	Kind kind       `json:"kind"`
	To   netip.Addr `json:"to"`
	Port uint16     `json:"port"`
}

// result is what came of a dial.
type result struct {
	ID     int        `json:"id"`
	Source netip.Addr `json:"source,omitzero"` // what the socket that sent calls itself
	Answer *answer    `json:"answer,omitempty"`
	Error  string     `json:"error,omitempty"`

	Reached string `json:"reached,omitempty"` // reachTCP, reachUDP: how the receiver answered

	LostFirst bool `json:"lostFirst,omitempty"` // the answer came to a packet that was sent again
	MTU       int  `json:"mtu,omitempty"`       // full: the size of the IP packet that was sent
	Learned   bool `json:"learned,omitempty"`   // full: an ICMP message had to say that the path's MTU is smaller
}

// answer is what the receiver of a probe saw. It is sent back over the probe's own socket.
type answer struct {
	Nonce      uint64     `json:"nonce"` // the probe's
	Who        string     `json:"who"`   // the receiver: its node, a slash, its place in the list of endpoints
	Seen       netip.Addr `json:"seen"`  // the sender's address, as it arrived
	Got        int        `json:"got"`   // bytes of payload
	Fragmented bool       `json:"fragmented,omitempty"`
}
