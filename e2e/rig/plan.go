// Package rig runs a real Kubernetes on one machine: a control plane and nodes, each in namespaces and control groups of
// its own, on a bridge that leads nowhere else. It builds nothing, and it changes nothing outside those namespaces, its
// control groups and its state folder.
package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Plan is the shape of a cluster; every name and address follows from it.
type Plan struct {
	Nodes   int
	Family  string // dual, ipv4 or ipv6
	Proxy   string // kube-proxy or none
	Network string // polder, or ptp: the reference plugin and static routes
	Sockets string // on, or off: Polder serves Services packet by packet

	// Policies is on, or off: nobody enforces policies. With ptp and kube-proxy, off means that Polder is not there at all.
	// It is empty in runs from before there were any.
	Policies string `json:",omitempty"`
}

// ControlPlane is the machine that etcd and the API server run on. It is no node.
const ControlPlane = "control-plane"

// Check says what is wrong with a plan.
func (p Plan) Check() error {
	if p.Nodes < 1 || p.Nodes > 9 {
		return fmt.Errorf("check plan: NODES=%d: want 1 to 9", p.Nodes)
	}
	for _, choice := range []struct{ name, value, allowed string }{
		{"FAMILY", p.Family, "dual ipv4 ipv6"}, {"PROXY", p.Proxy, "kube-proxy none"}, {"NETWORK", p.Network, "polder ptp"},
		{"SOCKETS", p.Sockets, "on off"}, {"POLICIES", p.Policies, "on off"},
	} {
		if !contains(strings.Fields(choice.allowed), choice.value) {
			return fmt.Errorf("check plan: %s=%s: want one of %s", choice.name, choice.value, choice.allowed)
		}
	}
	if p.Sockets == "off" && p.Network == "ptp" {
		return errors.New("check plan: SOCKETS=off: Polder sees no packet of a pod that NETWORK=ptp connects")
	}
	return nil
}

// HasPolder says whether Polder runs on the nodes: it may be for policies or Services alone.
func (p Plan) HasPolder() bool {
	return p.Network == "polder" || p.Proxy == "none" || p.Policies == "on"
}

func contains(list []string, wanted string) bool {
	for _, have := range list {
		if have == wanted {
			return true
		}
	}
	return false
}

// NodeNames lists the nodes, the first of which has number 1.
func (p Plan) NodeNames() []string {
	var names []string
	for i := 1; i <= p.Nodes; i++ {
		names = append(names, fmt.Sprintf("node%d", i))
	}
	return names
}

// pick keeps the values of the families that the cluster has, IPv4 first.
func (p Plan) pick(v4, v6 string) []string {
	switch p.Family {
	case "ipv4":
		return []string{v4}
	case "ipv6":
		return []string{v6}
	}
	return []string{v4, v6}
}

// ControlPlaneAddresses are those of the bridge; the first one is the API server's.
func (p Plan) ControlPlaneAddresses() []string { return p.pick("172.30.0.1", "fd30::1") }

// NodeAddresses are those of a node on the bridge, by its number from 1.
func (p Plan) NodeAddresses(number int) []string {
	return p.pick(fmt.Sprintf("172.30.0.%d", 10+number), fmt.Sprintf("fd30::%d", 10+number))
}

// ClusterCIDRs are what the pods' addresses are taken from.
func (p Plan) ClusterCIDRs() []string { return p.pick("10.244.0.0/16", "fd00:244::/48") }

// ServiceCIDRs are what the services' addresses are taken from.
func (p Plan) ServiceCIDRs() []string { return p.pick("10.96.0.0/16", "fd00:96::/112") }

// DNSAddress is the service address of CoreDNS.
func (p Plan) DNSAddress() string { return p.pick("10.96.0.10", "fd00:96::a")[0] }

// APIServerURL is where everyone finds the API server.
func (p Plan) APIServerURL() string {
	return "https://" + netip.AddrPortFrom(netip.MustParseAddr(p.ControlPlaneAddresses()[0]), apiPort).String()
}

const apiPort = 6443

// certificateAddresses are all addresses that clients may know the API server by.
func (p Plan) certificateAddresses() []string {
	return append(p.ControlPlaneAddresses(), "127.0.0.1", "::1", "10.96.0.1", "fd00:96::1")
}

// bits is the prefix length of the underlay.
func bits(address string) string {
	if strings.Contains(address, ":") {
		return "/64"
	}
	return "/24"
}

// Title names the configuration in a report, for example "2 nodes, dual".
func (p Plan) Title() string {
	title := fmt.Sprintf("%d nodes, %s", p.Nodes, p.Family)
	if p.Proxy == "none" {
		title += ", no kube-proxy"
	}
	if p.Sockets == "off" {
		title += ", packets alone"
	}
	switch {
	case p.Network == "ptp" && p.Proxy == "none":
		title += " but Polder's Services, pods by ptp"
	case p.Network == "ptp" && p.Policies == "on":
		title += ", Polder's policies, pods by ptp"
	case p.Network != "polder":
		return title + ", baseline " + p.Network
	}
	if p.Policies == "off" {
		title += ", no policies"
	}
	return title
}

func planFile(state string) string { return filepath.Join(state, "plan.json") }

func writePlan(state string, plan Plan) error {
	content, err := json.Marshal(plan)
	if err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	if err := os.MkdirAll(state, 0o755); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	if err := os.WriteFile(planFile(state), content, 0o644); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	return nil
}

// ReadPlan reads the plan of the cluster that runs with this state folder.
func ReadPlan(state string) (Plan, error) {
	var plan Plan
	content, err := os.ReadFile(planFile(state))
	if err != nil {
		return plan, fmt.Errorf("find cluster: start one with `up`: %w", err)
	}
	if err := json.Unmarshal(content, &plan); err != nil {
		return plan, fmt.Errorf("read plan: %w", err)
	}
	return plan, nil
}
