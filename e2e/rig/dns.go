package rig

import (
	"bytes"
	"context"
	_ "embed"
	"strings"
	"time"
)

//go:embed coredns.yaml
var corednsManifest []byte

// installDNS starts CoreDNS and waits for it: most service tests resolve names. It is also the first pod that has an
// address of the pod network.
func (r *Rig) installDNS(ctx context.Context) error {
	families := map[string]string{"dual": `["IPv4", "IPv6"]`, "ipv4": `["IPv4"]`, "ipv6": `["IPv6"]`}
	policy := "SingleStack"
	if r.Plan.Family == "dual" {
		policy = "PreferDualStack"
	}
	manifest := fill(corednsManifest, map[string]string{
		"COREDNS_IMAGE": r.CoreDNS, "COREDNS_ADDRESS": r.Plan.DNSAddress(), "COREDNS_POLICY": policy, "COREDNS_FAMILIES": families[r.Plan.Family],
	})
	if _, err := r.Kubectl(ctx, bytes.NewReader(manifest), "apply", "-f", "-"); err != nil {
		return err
	}
	return r.rollout(ctx, "deployment/coredns", 2*time.Minute)
}

// Describe is one line about the running cluster.
func (r *Rig) Describe() string {
	return strings.Join([]string{r.Plan.Title(), "API server " + r.Plan.APIServerURL(), "state in " + r.State}, "; ")
}
