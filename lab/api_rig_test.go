package lab_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// apiWorld is a lab whose agents read an API server, so that a change is theirs as soon as it is made: a folder is read
// when it has been quiet for a moment.
type apiWorld struct {
	*lab.Cluster
	api   *apiserver.Server
	doors map[string]string // by node: where its agent finds the API server
	open  []*http.Server
}

func newAPIWorld(t *testing.T, nodes int) *apiWorld {
	t.Helper()
	w := &apiWorld{Cluster: labtest.Up(t, &programs, lab.Options{Nodes: nodes}), api: apiserver.New(), doors: map[string]string{}}
	t.Cleanup(w.hide)
	for _, n := range w.Nodes() {
		me := n.Cluster()
		w.api.Put(apiserver.Nodes, objects.NewNode(me.Name, me.Addresses[0], me.PodCIDRs[0]))
	}
	w.api.Put(apiserver.Namespaces, &labelled{apiserver.NewMeta("v1", "Namespace", "", "default")})
	for _, n := range w.Nodes() {
		w.switchOver(t, n)
	}
	return w
}

type labelled struct{ apiserver.Meta }

// switchOver has a node's agent read the API server.
func (w *apiWorld) switchOver(t *testing.T, n *lab.Node) {
	t.Helper()
	w.doors[n.Name] = "127.0.0.1:0"
	w.show(t, n)
	config := filepath.Join(w.State(), n.Name+".kubeconfig")
	write(t, config, fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters: [{name: lab, cluster: {server: \"http://%s\"}}]\n"+
		"contexts: [{name: lab, context: {cluster: lab}}]\n", w.doors[n.Name]))
	agent := filepath.Join(w.State(), n.Name+".agent")
	script := fmt.Sprintf("#!/bin/sh\nexec %s/polder-agent --node %s --kubeconfig %s\n", w.Bin(), n.Name, config)
	if err := os.WriteFile(agent, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.SetAgent(agent); err != nil {
		t.Fatal(err)
	}
	if err := n.RestartAgent(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// show has the API server answer a node.
func (w *apiWorld) show(t *testing.T, n *lab.Node) {
	t.Helper()
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = net.Listen("tcp4", w.doors[n.Name])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.doors[n.Name] = l.Addr().String()
	s := &http.Server{Handler: w.api}
	go s.Serve(l)
	w.open = append(w.open, s)
}

// hide cuts all nodes off from the API server.
func (w *apiWorld) hide() {
	for _, s := range w.open {
		s.Close()
	}
	w.open = nil
}

// apiPod is a pod as the API server tells it.
type apiPod struct {
	apiserver.Meta
	Spec struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		PodIPs []podIP `json:"podIPs,omitempty"`
	} `json:"status"`
}

type podIP struct {
	IP string `json:"ip"`
}

// pod creates one as Kubernetes does: the object is there before the network, its addresses come after.
func (w *apiWorld) pod(t *testing.T, name, node string) *lab.Pod {
	t.Helper()
	o := &apiPod{Meta: apiserver.NewMeta("v1", "Pod", "default", name)}
	o.Metadata.UID = "" // the lab tells agents one of its own
	o.Metadata.Labels, o.Spec.NodeName = map[string]string{"app": name}, node
	w.api.Put(apiserver.Pods, o)
	p := create(t, w.Cluster, lab.PodOptions{Name: name, Node: node})
	for _, a := range p.Addresses {
		o.Status.PodIPs = append(o.Status.PodIPs, podIP{a.String()})
	}
	w.api.Put(apiserver.Pods, o)
	return p
}

type apiPolicy struct {
	apiserver.Meta
	Spec any `json:"spec"`
}

// policy puts a NetworkPolicy.
func (w *apiWorld) policy(name string, spec any) {
	w.api.Put(apiserver.NetworkPolicies, &apiPolicy{apiserver.NewMeta("networking.k8s.io/v1", "NetworkPolicy", "default", name), spec})
}
