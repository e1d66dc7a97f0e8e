// Package deploy holds the manifest that users apply. There is nothing in it but its test.
package deploy

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// read decodes the manifest, refusing fields that its kinds do not have, and returns the objects by kind.
func read(t *testing.T) map[string]any {
	t.Helper()
	data, err := os.ReadFile("polder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]any{
		"ServiceAccount": &corev1.ServiceAccount{}, "DaemonSet": &appsv1.DaemonSet{},
		"ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{},
		"ValidatingAdmissionPolicy":        &admissionv1.ValidatingAdmissionPolicy{},
		"ValidatingAdmissionPolicyBinding": &admissionv1.ValidatingAdmissionPolicyBinding{},
	}
	var seen []string
	for _, doc := range bytes.Split(data, []byte("\n---\n")) {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			t.Fatal(err)
		}
		if objects[kind.Kind] == nil || slices.Contains(seen, kind.Kind) {
			t.Fatalf("%q: not expected, or twice", kind.Kind)
		}
		seen = append(seen, kind.Kind)
		if err := yaml.UnmarshalStrict(doc, objects[kind.Kind]); err != nil {
			t.Fatalf("%s: %v", kind.Kind, err)
		}
	}
	if len(seen) != len(objects) {
		t.Errorf("only %v", seen)
	}
	return objects
}

// An agent that may do more than it needs makes every node's fall the cluster's (CVE-2022-29179).
func TestTheAgentMayDoNoMoreThanThis(t *testing.T) {
	objects := read(t)
	want := map[string][]string{
		"nodes":        {"get", "list", "watch", "patch"},
		"nodes/status": {"patch"},
		"pods":         {"get", "list", "watch"},
		"namespaces":   {"get", "list", "watch"},
		"events":       {"create", "patch"},
		"services":     {"list", "watch"},

		"discovery.k8s.io/endpointslices": {"list", "watch"},
		"networking.k8s.io/servicecidrs":  {"list", "watch"},

		"networking.k8s.io/networkpolicies":               {"get", "list", "watch"},
		"policy.networking.k8s.io/clusternetworkpolicies": {"get", "list", "watch"},
	}
	got := map[string][]string{}
	for _, rule := range objects["ClusterRole"].(*rbacv1.ClusterRole).Rules {
		if len(rule.APIGroups) != 1 || rule.NonResourceURLs != nil {
			t.Fatalf("rule %+v", rule)
		}
		for _, r := range rule.Resources {
			if group := rule.APIGroups[0]; group != "" {
				r = group + "/" + r
			}
			got[r] = append(got[r], rule.Verbs...)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	account := objects["ServiceAccount"].(*corev1.ServiceAccount)
	binding := objects["ClusterRoleBinding"].(*rbacv1.ClusterRoleBinding)
	if len(binding.Subjects) != 1 || binding.Subjects[0].Name != account.Name || binding.Subjects[0].Namespace != account.Namespace || binding.RoleRef.Name != "polder" {
		t.Errorf("binding %+v", binding)
	}
	policy := objects["ValidatingAdmissionPolicy"].(*admissionv1.ValidatingAdmissionPolicy)
	if bound := objects["ValidatingAdmissionPolicyBinding"].(*admissionv1.ValidatingAdmissionPolicyBinding); bound.Spec.PolicyName != policy.Name {
		t.Errorf("policy %s is not bound", policy.Name)
	}
	if who := policy.Spec.MatchConditions[0].Expression; who != "request.userInfo.username == 'system:serviceaccount:"+account.Namespace+":"+account.Name+"'" {
		t.Errorf("policy is of others: %s", who)
	}
}

func TestTheDaemonSetFitsTheAgent(t *testing.T) {
	set := read(t)["DaemonSet"].(*appsv1.DaemonSet)
	pod := set.Spec.Template.Spec
	if set.Namespace != "kube-system" || set.Name != "polder" || !pod.HostNetwork || !pod.HostPID || pod.ServiceAccountName != "polder" {
		t.Errorf("DaemonSet %s/%s: %+v", set.Namespace, set.Name, pod)
	}
	agent := pod.Containers[0]
	if agent.Image != "localhost/polder:dev" || agent.ImagePullPolicy != corev1.PullIfNotPresent {
		t.Errorf("image %s, %s", agent.Image, agent.ImagePullPolicy)
	}
	// What the agent and the plugin use by default, on the node at the same path, or below /host where the container has
	// something of its own there.
	want := []string{"/run/polder", "/var/lib/polder", "/sys/fs/bpf", "/host/sys/fs/cgroup", "/run/netns", "/etc/cni/net.d", "/opt/cni/bin"}
	var got []string
	for i, m := range agent.VolumeMounts {
		if v := pod.Volumes[i]; v.Name != m.Name || v.HostPath.Path != strings.TrimPrefix(m.MountPath, "/host") {
			t.Errorf("volume %s is not mounted at its own path", v.Name)
		}
		got = append(got, m.MountPath)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, probe := range []*corev1.Probe{agent.StartupProbe, agent.ReadinessProbe, agent.LivenessProbe} {
		if probe.HTTPGet.Host != "127.0.0.1" || probe.HTTPGet.Port.IntValue() != 9876 {
			t.Errorf("probe %+v", probe.HTTPGet)
		}
	}
}
