// Package podexec reaches the nodes of a real cluster through its API server: it lists nodes and pods, and runs a
// program in the agent's pod of each node as `kubectl exec` does, with the caller's own rights and no port of ours.
// It changes nothing.
package podexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/polder-net/polder/internal/cluster"
)

// The DaemonSet of the agents, as deploy/polder.yaml names it.
const (
	agentNamespace = "kube-system"
	agentName      = "polder"
)

// Cluster is a Kubernetes cluster on which Polder is installed.
type Cluster struct {
	client kubernetes.Interface
	config *rest.Config
}

// Open reads a kubeconfig file.
func Open(kubeconfig string) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	return open(config)
}

// Here returns the cluster whose pod this program runs in, with that pod's rights.
func Here() (*Cluster, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("read this pod's service account: %w", err)
	}
	return open(config)
}

func open(config *rest.Config) (*Cluster, error) {
	config.QPS, config.Burst = 50, 100 // a connection a node is all that is asked for
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return &Cluster{client, config}, nil
}

// Nodes lists the cluster's nodes.
func (c *Cluster) Nodes(ctx context.Context) ([]cluster.Node, error) {
	list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []cluster.Node
	for i := range list.Items {
		nodes = append(nodes, nodeOf(&list.Items[i]))
	}
	return nodes, nil
}

// nodeOf reads a Node. What does not parse is left out: that it is missing is what a check finds.
func nodeOf(o *corev1.Node) cluster.Node {
	n := cluster.Node{Name: o.Name}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range o.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == kind {
				n.Addresses = append(n.Addresses, ip.Unmap())
			}
		}
	}
	for _, s := range o.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(s); err == nil {
			n.PodCIDRs = append(n.PodCIDRs, p.Masked())
		}
	}
	return n
}

// Pods lists the pods that run and have a network of their own.
func (c *Cluster) Pods(ctx context.Context) ([]cluster.Pod, error) {
	list, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var pods []cluster.Pod
	for i := range list.Items {
		if o := &list.Items[i]; !o.Spec.HostNetwork && o.DeletionTimestamp == nil {
			pods = append(pods, podOf(o))
		}
	}
	return pods, nil
}

func podOf(o *corev1.Pod) cluster.Pod {
	p := cluster.Pod{Namespace: o.Namespace, Name: o.Name, Node: o.Spec.NodeName}
	for _, ip := range o.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.Addresses = append(p.Addresses, a.Unmap())
		}
	}
	return p
}

// Agent is the agent's pod on a node.
type Agent struct {
	Node      string
	pod       string
	container string
}

// Agents lists the agents' pods that run, one for each node, by the node's name.
func (c *Cluster) Agents(ctx context.Context) ([]Agent, error) {
	set, err := c.client.AppsV1().DaemonSets(agentNamespace).Get(ctx, agentName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("find DaemonSet %s/%s: %w", agentNamespace, agentName, err)
	}
	list, err := c.client.CoreV1().Pods(agentNamespace).List(ctx, metav1.ListOptions{
		LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector),
		FieldSelector: "status.phase=Running",
	})
	if err != nil {
		return nil, fmt.Errorf("list pods of DaemonSet %s/%s: %w", agentNamespace, agentName, err)
	}
	var agents []Agent
	for i := range list.Items {
		p := &list.Items[i]
		// While the set is updated, a node has two for a moment: the one that stays counts.
		if p.DeletionTimestamp == nil && len(p.Spec.Containers) > 0 {
			agents = append(agents, Agent{p.Spec.NodeName, p.Name, p.Spec.Containers[0].Name})
		}
	}
	slices.SortFunc(agents, func(a, b Agent) int { return strings.Compare(a.Node, b.Node) })
	return agents, nil
}

// Run starts a program in an agent's container and returns its standard input and output. What it writes to standard
// error goes to stderr. Closing ends it.
func (c *Cluster) Run(ctx context.Context, a Agent, stderr io.Writer, command ...string) (io.ReadWriteCloser, error) {
	request := c.client.CoreV1().RESTClient().Post().
		Namespace(agentNamespace).Resource("pods").Name(a.pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: a.container, Command: command, Stdin: true, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	// WebSocket alone: API servers from 1.30 on, the oldest that Polder is for, speak it here.
	executor, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, request.URL().String())
	if err != nil {
		return nil, fmt.Errorf("run in pod %s/%s: %w", agentNamespace, a.pod, err)
	}
	// What client-go would log about connections that end, the reader learns from its errors.
	ctx, cancel := context.WithCancel(logr.NewContext(ctx, logr.Discard()))
	stdin, toStdin := io.Pipe()
	fromStdout, stdout := io.Pipe()
	s := &stream{PipeReader: fromStdout, in: toStdin, cancel: cancel, ended: make(chan struct{})}
	go func() { // ends when the program has, or at Close
		defer close(s.ended)
		err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: stderr})
		if err == nil {
			err = io.EOF
		}
		stdout.CloseWithError(err) // the reader learns how it ended
		stdin.CloseWithError(err)
	}()
	return s, nil
}

// stream is a program's standard input and output.
type stream struct {
	*io.PipeReader
	in     *io.PipeWriter
	cancel context.CancelFunc
	ended  chan struct{}
}

func (s *stream) Write(b []byte) (int, error) { return s.in.Write(b) }

// closeTimeout is how long a program may take to end after its input has.
const closeTimeout = 2 * time.Second

// Close ends the program's input, which ends it, and then the connection. It may be called twice.
func (s *stream) Close() error {
	err := s.in.Close()
	select {
	case <-s.ended:
	case <-time.After(closeTimeout):
	}
	s.cancel()
	err = errors.Join(err, s.PipeReader.Close())
	<-s.ended
	return err
}
