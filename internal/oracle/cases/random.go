package cases

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polder-net/polder/internal/oracle"
)

// Dice make random clusters and packets. They are the same for the same seed.
type Dice struct {
	*rand.Rand
	blocks []netip.Prefix // that policies were given
}

// NewDice returns dice of a seed.
func NewDice(seed uint64) *Dice { return &Dice{Rand: rand.New(rand.NewPCG(seed, 7))} }

func (d *Dice) one(in int) bool { return d.IntN(in) == 0 }

func pick[T any](d *Dice, from ...T) T { return from[d.IntN(len(from))] }

// many makes a list of least to most things.
func many[T any](d *Dice, least, most int, make func(i int) T) (all []T) {
	for i := range least + d.IntN(most-least+1) {
		all = append(all, make(i))
	}
	return all
}

// Cluster makes two or three nodes, a few pods in few namespaces, and policies of all kinds, so that most of them are
// about somebody. Addresses are pods' own; both families occur.
func (d *Dice) Cluster() *oracle.Objects {
	d.blocks = nil
	o := &oracle.Objects{}
	o.Nodes = many(d, 2, 3, d.node)
	o.Namespaces = many(d, 2, 3, func(i int) *corev1.Namespace {
		labels := d.labels()
		labels[corev1.LabelMetadataName] = namespace(i)
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(i), Labels: labels}}
	})
	o.Pods = many(d, 3, 9, func(i int) *corev1.Pod { return d.pod(o, i) })
	o.NetworkPolicies = d.networkPolicies(o)
	if !d.one(3) {
		o.ClusterPolicies = d.clusterPolicies(o)
	}
	return o
}

func namespace(i int) string { return fmt.Sprint("ns-", i) }

func (d *Dice) node(i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i), Labels: d.labels()}}
	n.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: fmt.Sprint("192.0.2.", i)},
		{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("2001:db8::%d:1", i)},
		{Type: corev1.NodeHostName, Address: n.Name},
	}
	if d.one(3) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: fmt.Sprint("198.51.100.", i)})
	}
	return n
}

// labels are few, of few values, so that selectors match some and not others.
func (d *Dice) labels() map[string]string {
	all := map[string]string{}
	for _, key := range []string{"a", "b"} {
		if !d.one(4) {
			all[key] = pick(d, "0", "1")
		}
	}
	return all
}

func (d *Dice) pod(o *oracle.Objects, i int) *corev1.Pod {
	at := d.IntN(len(o.Nodes))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, o.Namespaces...).Name, Name: fmt.Sprint("pod-", i), Labels: d.labels()}}
	p.Spec.NodeName = o.Nodes[at].Name
	v4, v6 := fmt.Sprintf("10.0.%d.%d", at, i+1), fmt.Sprintf("fd00:%d::%d", at, i+1)
	p.Status.Phase = pick(d, corev1.PodRunning, corev1.PodRunning, corev1.PodPending)
	switch {
	case d.one(8):
		p.Spec.HostNetwork = true
		v4, v6 = o.Nodes[at].Status.Addresses[0].Address, o.Nodes[at].Status.Addresses[1].Address
	case d.one(10):
		p.Status.Phase = pick(d, corev1.PodSucceeded, corev1.PodFailed)
	}
	p.Status.PodIPs = pick(d, []corev1.PodIP{{IP: v4}}, []corev1.PodIP{{IP: v6}}, []corev1.PodIP{{IP: v4}, {IP: v6}}, []corev1.PodIP{{IP: v4}, {IP: v6}})
	p.Status.PodIP = p.Status.PodIPs[0].IP
	p.Spec.Containers = many(d, 1, 2, func(i int) corev1.Container {
		return corev1.Container{Name: fmt.Sprint("c-", i), Ports: many(d, 0, 2, func(int) corev1.ContainerPort {
			return corev1.ContainerPort{Name: d.portName(), ContainerPort: int32(d.port()), Protocol: d.protocol()}
		})}
	})
	return p
}

func (d *Dice) portName() string { return pick(d, "p", "q", "r") }

func (d *Dice) protocol() corev1.Protocol {
	return pick(d, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

// port is one of few, at borders and beside each other.
func (d *Dice) port() uint16 { return pick[uint16](d, 1, 2, 79, 80, 81, 443, 8080, 65534, 65535) }

// Packet makes a packet between addresses that mean something: of pods, nodes, at the borders of blocks, and outside.
func (d *Dice) Packet(o *oracle.Objects) oracle.Packet {
	p := oracle.Packet{Src: d.address(o), Port: d.port() + pick[uint16](d, 0, 0, 1)}
	for p.Dst = d.address(o); p.Dst.Is4() != p.Src.Is4() || p.Dst == p.Src && !d.one(5); {
		p.Dst = d.address(o)
	}
	p.Protocol = pick[uint8](d, 6, 6, 6, 17, 132, 1, 47)
	if p.Protocol == 1 && p.Src.Is6() {
		p.Protocol = 58
	}
	if p.Protocol != 6 && p.Protocol != 17 && p.Protocol != 132 {
		p.Port = 0
	}
	return p
}

func (d *Dice) address(o *oracle.Objects) netip.Addr {
	switch d.IntN(8) {
	case 0:
		if addrs := oracle.NodeAddresses(pick(d, o.Nodes...)); len(addrs) > 0 {
			return pick(d, addrs...)
		}
	case 1:
		return netip.MustParseAddr(pick(d, "203.0.113.9", "10.9.9.9", "2001:db8:7::1", "fd00:9::9", "0.0.0.1", "::2"))
	case 2:
		if len(d.blocks) > 0 {
			return d.near(pick(d, d.blocks...))
		}
	}
	return netip.MustParseAddr(pick(d, pick(d, o.Pods...).Status.PodIPs...).IP)
}

// near is the first address of a block, one in it, or the one before.
func (d *Dice) near(block netip.Prefix) netip.Addr {
	first := block.Masked().Addr()
	if before := first.Prev(); d.one(3) && before.IsValid() {
		return before
	}
	bytes := first.AsSlice()
	if next := len(bytes) - 1; d.one(2) {
		bytes[next] |= byte(d.IntN(256)) & byte(0xff>>max(0, block.Bits()-8*next))
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}
