package rig

import (
	"encoding/json"
	"strings"
	"testing"
)

const manifest = `# a comment
apiVersion: v1
kind: ServiceAccount
metadata: {name: polder, namespace: kube-system}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: polder, namespace: kube-system}
spec:
  template:
    spec:
      initContainers:
      - name: install
        image: localhost/polder:dev
      containers:
      - name: agent
        env:
        - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: KUBERNETES_SERVICE_HOST, value: old}
--- # another one
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: other}
spec: {template: {spec: {containers: [{name: c}]}}}
`

func TestVariablesAreSetInEveryContainerOfTheDaemonSetAndNowhereElse(t *testing.T) {
	list, err := withEnvironment([]byte(manifest), "polder", map[string]string{"KUBERNETES_SERVICE_HOST": "fd30::1", "KUBERNETES_SERVICE_PORT": "6443"})
	if err != nil {
		t.Fatal(err)
	}
	type container struct {
		Env []map[string]any `json:"env"`
	}
	var got struct {
		Items []struct {
			Kind string `json:"kind"`
			Spec struct {
				Template struct {
					Spec struct {
						InitContainers []container `json:"initContainers"`
						Containers     []container `json:"containers"`
					} `json:"spec"`
				} `json:"template"`
			} `json:"spec"`
		} `json:"items"`
	}
	if err := json.Unmarshal(list, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Items) != 3 {
		t.Fatalf("%d documents, want 3", len(got.Items))
	}
	pod := got.Items[1].Spec.Template.Spec
	if n := len(pod.InitContainers[0].Env); n != 2 {
		t.Errorf("init container has %d variables, want 2", n)
	}
	env := pod.Containers[0].Env
	if len(env) != 3 || env[0]["name"] != "NODE_NAME" || env[0]["valueFrom"] == nil || env[1]["value"] != "fd30::1" || env[2]["value"] != "6443" {
		t.Errorf("agent has %v", env)
	}
	if other := got.Items[2].Spec.Template.Spec.Containers[0].Env; other != nil {
		t.Errorf("the other DaemonSet has %v", other)
	}
}

func TestAManifestWithoutTheDaemonSetIsAnError(t *testing.T) {
	if _, err := withEnvironment([]byte(manifest), "absent", nil); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("error is %v", err)
	}
	if _, err := withEnvironment([]byte("a: [b"), "polder", nil); err == nil {
		t.Error("broken YAML is accepted")
	}
}
