package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/plain"
)

// MAC is an Ethernet address. An array, so that rows which hold one can be compared.
type MAC [6]byte

// Local is what this node's kernel says: read back from it, never remembered.
type Local struct {
	Node string // this node's name

	// Pods are the links that carry a pod record, sorted by link name.
	Pods []LocalPod

	// Uplinks are the devices by which this node reaches its network, sorted by name: those that hold one of the
	// node's addresses, carry a default route or lead to another node.
	Uplinks []Link

	// Others are the devices, sorted by name, that are no uplinks and lead to no pod of ours, but that packets may leave by.
	Others []Link

	// Paths says, for each address of another node, how the kernel reaches it. No entry: it does not.
	Paths map[netip.Addr]Path

	// Cookie is the kernel's number of this node's network namespace; 0: sockets are not looked at.
	Cookie uint64

	// ClosesSockets: the kernel lets a program close a socket that is connected to a backend which is gone.
	ClosesSockets bool

	// Translators are others on this node that rewrite addresses in the kernel's conntrack.
	Translators []Translator

	// Gateways are the node's own addresses on links where another plugin's pods may be, where Polder guards those.
	Gateways []netip.Addr

	// Tunnel is the index of the tunnel device, 0 while there is none.
	Tunnel int
}

// Translator is somebody whose rules rewrite destinations on this node, or did: there are flows left of it.
type Translator struct {
	Who   string // KubeProxy, "portmap", …
	Where string // what was found: "nftables table ip kube-proxy"
}

// KubeProxy is the translator that serves Services, too.
const KubeProxy = "kube-proxy"

// Link is a network device of this node.
type Link struct {
	Name  string
	Index int
	MTU   int // bytes

	// AcceptsRA: the link takes router advertisements (sysctl accept_ra is 1 or 2).
	AcceptsRA bool
}

// Path is how this node's kernel reaches another node's address.
type Path struct {
	Link   Link
	OnLink bool // no router in between: the address is a neighbour on Link
	MTU    int  // bytes, of the route where it sets one, else of the link
}

// LocalPod is one attachment of a pod of this node, as its host-side link's record says it.
type LocalPod struct {
	Link  string // host side of the pod's veth pair
	Index int    // of Link; never used again by the kernel while it runs
	Up    bool

	HostMAC, PodMAC MAC // of the two ends
	MTU             int // of Link

	Network     string // the CNI network's name
	ContainerID string // as the runtime gave it
	Ifname      string // the interface's name inside the pod

	// Namespace and Name of the Kubernetes pod; empty where the runtime named none, or the record had no room. Then
	// NameHash is the HashName that it had room for; empty: there is no name.
	Namespace, Name string
	NameHash        string

	// UID is the HashUID of the Kubernetes pod's, which tells it from one of its name before it or after; empty where the
	// runtime gave none, or the record had no room.
	UID string

	Addresses []netip.Addr // the pod's own, at most one a family with Polder's IPAM

	// Damaged: the record cannot be read. Addresses are those that the kernel delivers to the link, and whose pod it is
	// is not known.
	Damaged bool

	// Held are what other addresses the far end of a damaged link has. They are not delivered to, and given to nobody.
	Held []netip.Addr

	// HostPorts are the ports of this node that lead to the pod.
	HostPorts []HostPort

	// Behind: another CNI plugin made the link and gave the addresses. Polder guards it, and changes nothing of it.
	Behind bool

	// Shaped: somebody limits the pod's bandwidth by queues on its link, so its packets must pass through them.
	Shaped bool

	// Ingress and Egress are the rulesets that judge the pod's packets (policy.ID). Late: it ran before it was isolated.
	Ingress, Egress uint64
	Late            bool
}

// Holds are the addresses that Polder may give to no other pod. What another plugin gave is that one's to keep.
func (p LocalPod) Holds() []netip.Addr {
	if p.Behind {
		return nil
	}
	return slices.Concat(p.Addresses, p.Held)
}

// HashName stands for a pod's name where there is no room for it: 16 digits.
func HashName(namespace, name string) string {
	sum := sha256.Sum256([]byte(namespace + "/" + name))
	return hex.EncodeToString(sum[:8])
}

// HashUID stands for a pod's UID: 8 digits, since few pods ever have one name. Empty for none.
func HashUID(uid string) string {
	if uid == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(uid))
	return hex.EncodeToString(sum[:4])
}

// LinkName is the name of the host side of an attachment's link.
func LinkName(network, containerID, ifname string) string {
	return plain.LinkName(network, containerID, ifname)
}

// LinkPrefix begins the name of every pod's link.
const LinkPrefix = plain.LinkPrefix

// HostPort is a port of the node that leads to a port of a pod on it (a container's hostPort, CNI's portMappings).
type HostPort struct {
	Addr     netip.Addr // hostIP; unspecified: all addresses of the node in that family
	Port     uint16
	Protocol Protocol
	PodPort  uint16
}
