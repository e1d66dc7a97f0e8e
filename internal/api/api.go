// Package api is the protocol between the agent and its local clients, the CNI plugin and the command line:
// one JSON request and one JSON response a connection, over a unix socket that only root opens. The pod's network
// namespace travels as a file descriptor, so that the agent needs no path of the host's.
package api

import (
	"encoding/json"
	"net/netip"
)

// Socket is where the agent listens.
const Socket = "/run/polder/agent.sock"

// Verb is what a request asks for.
type Verb string

// The verbs. Add, Del, Check, GC and Status are CNI's for a pod's link; Reserve, Release and Reserved are ADD, DEL and
// CHECK of the IPAM plugin, for a link that is someone else's; Report is for people.
const (
	Add      Verb = "add"
	Del      Verb = "del"
	Check    Verb = "check"
	GC       Verb = "gc"
	Status   Verb = "status"
	Reserve  Verb = "reserve"
	Release  Verb = "release"
	Reserved Verb = "reserved"
	Report   Verb = "report"
)

// Attachment is what CNI identifies by the pair of container and interface, within a network.
type Attachment struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	Ifname      string `json:"ifname"`
}

// Request is one request. Add and Check carry the pod's network namespace as a file descriptor beside it; Del does
// where there still is one.
type Request struct {
	Verb Verb `json:"verb"`
	Attachment

	// The Kubernetes pod, from CNI_ARGS; empty where the runtime is another.
	PodNamespace string `json:"podNamespace,omitempty"`
	PodName      string `json:"podName,omitempty"`

	// Add: Addresses that a delegated IPAM plugin gave; none: the agent assigns them from the node's pod CIDRs.
	// Check and Reserved: those that the earlier result says.
	Addresses []Address `json:"addresses,omitempty"`
	// Add: routes of the delegated IPAM plugin besides the default route.
	Routes []Route `json:"routes,omitempty"`

	// GC: the attachments that are still in use; all others of Network go. IPAM says that the reservations of the
	// IPAM plugin are meant, not the links.
	Valid []Attachment `json:"valid,omitempty"`
	IPAM  bool         `json:"ipam,omitempty"`
}

// Address is one address of a pod.
type Address struct {
	Prefix  netip.Prefix `json:"prefix"` // the address with the length of the on-link prefix, not masked
	Gateway netip.Addr   `json:"gateway,omitzero"`
}

// Route is a route inside a pod.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"via,omitzero"`
	MTU int          `json:"mtu,omitempty"`
}

// Interface is one end of a pod's link.
type Interface struct {
	Name string `json:"name"`
	MAC  string `json:"mac"`
	MTU  int    `json:"mtu"`
}

// Response is one response: an Error or what the verb gives.
type Response struct {
	Error *Error `json:"error,omitempty"`

	// Add: both ends, then what is inside. Reserve: Addresses and Routes alone.
	Host      *Interface `json:"host,omitempty"`
	Pod       *Interface `json:"pod,omitempty"`
	Addresses []Address  `json:"addresses,omitempty"`
	Routes    []Route    `json:"routes,omitempty"`

	Report json.RawMessage `json:"report,omitempty"`
}

// Error is a CNI error (spec 1.1.0, section "Error").
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

// Error codes of the CNI specification that the agent uses, and our own from 100 on.
const (
	CodeUnknownContainer = 3
	CodeIO               = 5
	CodeInvalidConfig    = 7
	CodeTryAgain         = 11
	CodeNotAvailable     = 50 // STATUS: ADD will fail
	CodeLimited          = 51 // STATUS: and pods that run may have limited connectivity
	CodeExhausted        = 100
	CodeExists           = 101 // ADD: the interface exists already
	CodeNotAsExpected    = 102 // CHECK: something is not as ADD left it
)

func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}
