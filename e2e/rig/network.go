package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// nodeCIDRs are the pod CIDRs that the controller manager gave to each node, in the order of the node's number.
func (r *Rig) nodeCIDRs(ctx context.Context) ([][]string, error) {
	output, err := r.Kubectl(ctx, nil, "get", "nodes", "-o", "json")
	if err != nil {
		return nil, err
	}
	return parseNodeCIDRs([]byte(output), r.Plan)
}

func parseNodeCIDRs(output []byte, plan Plan) ([][]string, error) {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ PodCIDRs []string }
		}
	}
	if err := json.Unmarshal(output, &list); err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	byName := map[string][]string{}
	for _, node := range list.Items {
		byName[node.Metadata.Name] = node.Spec.PodCIDRs
	}
	var all [][]string
	for _, name := range plan.NodeNames() {
		if len(byName[name]) != len(plan.ClusterCIDRs()) {
			return nil, fmt.Errorf("read nodes: %s has pod CIDRs %v, want %d", name, byName[name], len(plan.ClusterCIDRs()))
		}
		all = append(all, byName[name])
	}
	return all, nil
}

// routeToPods lets the control plane reach pods, as the API server calls some: there is no node and no plugin on it.
func (r *Rig) routeToPods(ctx context.Context) error {
	cidrs, err := r.nodeCIDRs(ctx)
	if err != nil {
		return err
	}
	for i := range r.nodes {
		if err := runSteps(ctx, r.control, r.routesTo(cidrs[i], i+1)); err != nil {
			return err
		}
	}
	return nil
}

// routesTo are the routes by which others reach the pods of a node.
func (r *Rig) routesTo(cidrs []string, number int) []string {
	var steps []string
	for i, address := range r.Plan.NodeAddresses(number) {
		steps = append(steps, family(address)+" route replace "+cidrs[i]+" via "+address)
	}
	return steps
}

// installNetwork gives the pods their network.
func (r *Rig) installNetwork(ctx context.Context) error {
	if r.Plan.Network == "polder" {
		return r.installPolder(ctx)
	}
	cidrs, err := r.nodeCIDRs(ctx)
	if err != nil {
		return err
	}
	for i, m := range r.nodes {
		for other := range r.nodes {
			if other == i {
				continue
			}
			if err := runSteps(ctx, m, r.routesTo(cidrs[other], other+1)); err != nil {
				return err
			}
		}
		list, err := pointToPoint(cidrs[i], r.Plan.Policies == "on")
		if err != nil {
			return err
		}
		if _, err := m.RunInput(ctx, bytes.NewReader(list), "tee", "/etc/cni/net.d/10-ptp.conflist"); err != nil {
			return err
		}
	}
	if !r.Plan.HasPolder() {
		return nil
	}
	return r.installPolder(ctx) // for Services and policies
}

// installPolicyAPI lets the API server know ClusterNetworkPolicy, as the administrator of a cluster does.
func (r *Rig) installPolicyAPI(ctx context.Context) error {
	if _, err := r.Kubectl(ctx, nil, "create", "-f", r.PolicyAPI); err != nil {
		return err
	}
	_, err := r.Kubectl(ctx, nil, "wait", "--for=condition=Established", "--timeout=60s",
		"customresourcedefinition/clusternetworkpolicies.policy.networking.k8s.io")
	return err
}

// pointToPoint is the plugin list of the baseline: reference plugins only, no masquerading; behind them Polder's, if its
// agent is to guard the pods.
func pointToPoint(cidrs []string, guarded bool) ([]byte, error) {
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, cidr := range cidrs {
		ranges = append(ranges, []map[string]string{{"subnet": cidr}})
		everything := "0.0.0.0/0"
		if strings.Contains(cidr, ":") {
			everything = "::/0"
		}
		routes = append(routes, map[string]string{"dst": everything})
	}
	plugins := []map[string]any{
		{"type": "ptp", "ipMasq": false, "ipam": map[string]any{"type": "host-local", "ranges": ranges, "routes": routes}},
		{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}, "snat": true},
		{"type": "bandwidth", "capabilities": map[string]bool{"bandwidth": true}},
	}
	if guarded {
		plugins = append(plugins, map[string]any{"type": "polder-cni"})
	}
	list, err := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "baseline", "plugins": plugins})
	if err != nil {
		return nil, fmt.Errorf("write plugin list: %w", err)
	}
	return list, nil
}

// installPolder installs Polder as a user does: its manifest, and its image, which the nodes have by now.
func (r *Rig) installPolder(ctx context.Context) error {
	manifest, err := os.ReadFile(r.Manifest)
	if err != nil {
		return fmt.Errorf("install polder: %w", err)
	}
	args := []string{"--services", "external-ips"} // which one of the tests wants
	if r.Plan.Proxy == "kube-proxy" {
		args = []string{"--services", "off"}
	}
	if r.Plan.Network != "polder" {
		args = append(args, "--routing", "off")
	}
	if r.Plan.Policies == "off" {
		args = append(args, "--policies", "off") // they are on by default
	}
	environment := map[string]string{
		"KUBERNETES_SERVICE_HOST": r.Plan.ControlPlaneAddresses()[0],
		"KUBERNETES_SERVICE_PORT": fmt.Sprint(apiPort),
	}
	if r.Plan.Sockets == "off" {
		environment["POLDER_TEST_PACKETS_ONLY"] = "1"
	}
	list, err := withEnvironment(manifest, "polder", environment, args...)
	if err != nil {
		return fmt.Errorf("install polder: %w", err)
	}
	if _, err := r.Kubectl(ctx, bytes.NewReader(list), "apply", "-f", "-"); err != nil {
		return fmt.Errorf("install polder: %w", err)
	}
	return r.rollout(ctx, "daemonset/polder", 90*time.Second)
}

// rollout waits for a workload in kube-system, and says what its pods say when it does not come.
func (r *Rig) rollout(ctx context.Context, workload string, patience time.Duration) error {
	_, err := r.Kubectl(ctx, nil, "-n", "kube-system", "rollout", "status", workload, "--timeout="+patience.String())
	if err == nil {
		return nil
	}
	pods, _ := r.Kubectl(ctx, nil, "-n", "kube-system", "get", "pods", "-o", "wide")
	events, _ := r.Kubectl(ctx, nil, "-n", "kube-system", "get", "events", "--sort-by=.lastTimestamp")
	logs, _ := r.Kubectl(ctx, nil, "-n", "kube-system", "logs", workload, "--all-containers", "--tail=20")
	return fmt.Errorf("%w\n%s\n%s\n%s", err, pods, events, logs)
}
