package objects

import (
	"net/netip"

	"github.com/polder-net/polder/bench/apiserver"
)

// Pod is a Pod, as far as policies are about it.
type Pod struct {
	apiserver.Meta
	Spec struct {
		Node       string      `json:"nodeName"`
		Containers []container `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase string  `json:"phase"`
		IP    string  `json:"podIP,omitempty"`
		IPs   []podIP `json:"podIPs,omitempty"`
	} `json:"status"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

type podIP struct {
	IP string `json:"ip"`
}

// NewPod returns a pod that runs on a node.
func NewPod(namespace, name, node string, labels map[string]string, addresses ...netip.Addr) *Pod {
	p := &Pod{Meta: apiserver.NewMeta("v1", "Pod", namespace, name)}
	p.Metadata.Labels = labels
	p.Spec.Node, p.Spec.Containers, p.Status.Phase = node, []container{{"main", "none"}}, "Running"
	for _, a := range addresses {
		p.Status.IPs = append(p.Status.IPs, podIP{a.String()})
	}
	if len(addresses) > 0 {
		p.Status.IP = addresses[0].String()
	}
	return p
}

// Policy is a NetworkPolicy.
type Policy struct {
	apiserver.Meta
	Spec struct {
		Subject Selector `json:"podSelector"`
		Types   []string `json:"policyTypes"`
		Ingress []rule   `json:"ingress,omitempty"`
		Egress  []rule   `json:"egress,omitempty"`
	} `json:"spec"`
}

type rule struct {
	From  []Peer `json:"from,omitempty"`
	To    []Peer `json:"to,omitempty"`
	Ports []Port `json:"ports,omitempty"`
}

// Peer is whom a rule is about.
type Peer struct {
	Pods       *Selector `json:"podSelector,omitempty"`
	Namespaces *Selector `json:"namespaceSelector,omitempty"`
	Block      *Block    `json:"ipBlock,omitempty"`
}

// Selector matches all objects that have some labels.
type Selector struct {
	Labels map[string]string `json:"matchLabels,omitempty"`
}

// Block is addresses.
type Block struct {
	CIDR   string   `json:"cidr"`
	Except []string `json:"except,omitempty"`
}

// Port is one, or those from it to End.
type Port struct {
	Protocol string `json:"protocol"`
	Port     int    `json:"port"`
	End      int    `json:"endPort,omitempty"`
}

// NewPolicy returns a policy of all pods of a namespace that isolates nobody yet.
func NewPolicy(namespace, name string) *Policy {
	return &Policy{Meta: apiserver.NewMeta("networking.k8s.io/v1", "NetworkPolicy", namespace, name)}
}

// Isolate isolates the subject, so that nothing passes that LetIn and LetOut do not name.
func (p *Policy) Isolate(ingress, egress bool) *Policy {
	p.Spec.Types = nil
	if ingress {
		p.Spec.Types = append(p.Spec.Types, "Ingress")
	}
	if egress {
		p.Spec.Types = append(p.Spec.Types, "Egress")
	}
	return p
}

// LetIn adds a rule of ingress.
func (p *Policy) LetIn(from Peer, to ...Port) *Policy {
	p.Spec.Ingress = append(p.Spec.Ingress, rule{From: []Peer{from}, Ports: to})
	return p.Isolate(true, len(p.Spec.Egress) > 0)
}

// LetOut adds a rule of egress.
func (p *Policy) LetOut(to Peer, ports ...Port) *Policy {
	p.Spec.Egress = append(p.Spec.Egress, rule{To: []Peer{to}, Ports: ports})
	return p.Isolate(len(p.Spec.Ingress) > 0, true)
}
