// Package api is the protocol between the agent and its local clients, the CNI plugin and the command line:
// one JSON request and one JSON response a connection, over a unix socket that only root opens. The pod's network
// namespace travels as a file descriptor, so that the agent needs no path of the host's.
package api

import (
	"encoding/json"
	"net/netip"

	"github.com/polder-net/polder/internal/plain"
)

// Socket is where the agent listens.
const Socket = "/run/polder/agent.sock"

// Verb is what a request asks for.
type Verb string

// The verbs. Add, Del, Check, GC and Status are CNI's for a pod's link; Reserve, Release and Reserved are ADD, DEL and
// CHECK of the IPAM plugin, for a link that is someone else's; Report, Services, Trace and Drops are for people.
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
	Services Verb = "services"
	Trace    Verb = "trace"
	Drops    Verb = "drops"
)

// Attachment is what CNI identifies by the pair of container and interface, within a network.
type Attachment struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	Ifname      string `json:"ifname"`
}

// HostLink is the name of the host side of an attachment's link: the same for every ADD of it, and known without
// asking anybody.
func (a Attachment) HostLink() string {
	return plain.LinkName(a.Network, a.ContainerID, a.Ifname)
}

// Request is one request. Add and Check carry the pod's network namespace as a file descriptor beside it; Del does
// where there still is one.
type Request struct {
	Verb Verb `json:"verb"`
	Attachment

	// The Kubernetes pod, from CNI_ARGS; empty where the runtime is another.
	PodNamespace string `json:"podNamespace,omitempty"`
	PodName      string `json:"podName,omitempty"`
	PodUID       string `json:"podUID,omitempty"` // as the kubelet knows it; of a static pod, not that of its API object

	// Add: Addresses that a delegated IPAM plugin gave; none: the agent assigns them from the node's pod CIDRs.
	// Check: those of the pod's interface in the earlier result. Reserved: all of that result; a plugin that comes
	// later in a chain may have added others to them, so the reserved ones must be among these.
	Addresses []Address `json:"addresses,omitempty"`
	// Add: routes of the delegated IPAM plugin besides the default routes, which a pod always has.
	// Check: those of the earlier result, to which a later plugin may have added, or from which it may have taken.
	Routes []Route `json:"routes,omitempty"`

	// DelegatedIPAM says where addresses come from. Add: from Addresses. Status: an exhausted range is no fault.
	DelegatedIPAM bool `json:"delegatedIPAM,omitempty"`

	// Add: the configuration says `ipMasq: true`. Polder masquerades what leaves the cluster from a node's pod CIDRs;
	// an address from elsewhere cannot be honoured then: CodeUnsupported.
	Masquerade bool `json:"masquerade,omitempty"`

	// Add: a later plugin of the chain limits the pod's bandwidth on its link.
	Shaped bool `json:"shaped,omitempty"`

	// Add, Check: another plugin made the link and gave Addresses. The agent guards it and changes nothing of it; its
	// answer is empty.
	Behind bool `json:"behind,omitempty"`

	// Add: the ports of the node that are to lead to the pod; without Services, the agent refuses them: CodeUnsupported.
	// Check: those that were.
	PortMappings []PortMapping `json:"portMappings,omitempty"`

	// Check: both ends of the link as the earlier result says them; MTU is 0 where that result's version has none.
	Host *Interface `json:"host,omitempty"`
	Pod  *Interface `json:"pod,omitempty"`

	// GC: the attachments that are still in use; all others of Network go. Empty means that none is, nil is refused
	// (CVE-2025-64715 was an empty set which became an absent one). IPAM says that the reservations of the IPAM plugin
	// are meant, not the links.
	Valid []Attachment `json:"valid,omitzero"`

	// GC, Status: the IPAM plugin asks.
	IPAM bool `json:"ipam,omitempty"`

	Services *ServicesRequest `json:"services,omitempty"` // Services: nil: all
	Trace    *TraceRequest    `json:"trace,omitempty"`
	Drops    *DropsRequest    `json:"drops,omitempty"` // Drops: nil: the counters
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

// PortMapping is a port of the node that leads to one of the pod's.
type PortMapping struct {
	HostIP        netip.Addr     `json:"hostIP,omitzero"` // none: all addresses of the node; unspecified: all of its family
	HostPort      uint16         `json:"hostPort"`
	ContainerPort uint16         `json:"containerPort"`
	Protocol      plain.Protocol `json:"protocol"`
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

	// Add: both ends, then what is inside; Behind: nothing. Reserve: Addresses and Routes alone; no Routes: the default route of each
	// family of Addresses.
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

// Error codes of the CNI specification and its library that we use, and our own from 100 on.
const (
	CodeIncompatible     = 1
	CodeUnsupported      = 2 // a field of the configuration that cannot be honoured; the message names it and its value
	CodeUnknownContainer = 3
	CodeEnvironment      = 4 // the message names the variable
	CodeIO               = 5
	CodeDecode           = 6
	CodeInvalidConfig    = 7
	CodeInvalidNetns     = 8
	CodeTryAgain         = 11
	CodeNotAvailable     = 50  // STATUS: ADD will fail
	CodeLimited          = 51  // STATUS: and pods that run may have limited connectivity
	CodeExists           = 101 // ADD: the interface exists already
	CodeNotAsExpected    = 102 // CHECK: something is not as ADD left it
	CodePortTaken        = 103 // ADD: a host port is another pod's
	CodeNoSuch           = 104 // Services, Trace: what is asked about is not there, or not one thing
	CodeInternal         = 999
)

func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}
