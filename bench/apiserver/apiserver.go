// Package apiserver is an API server for what service proxies and policies read, over HTTP and in JSON: lists, watches, and no
// questions asked. It is for benchmarks: it checks nothing and forgets nothing.
package apiserver

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Resource is a kind of object, as URLs have it.
type Resource string

// The resources.
const (
	Services Resource = "services"
	Slices   Resource = "endpointslices"
	Nodes    Resource = "nodes"
	Pods     Resource = "pods"
	CIDRs    Resource = "servicecidrs"

	Namespaces      Resource = "namespaces"
	NetworkPolicies Resource = "networkpolicies"
	ClusterPolicies Resource = "clusternetworkpolicies"
)

// Meta is what all objects begin with.
type Meta struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
}

// Metadata is an object's.
type Metadata struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace,omitempty"`
	UID             string            `json:"uid"`
	ResourceVersion string            `json:"resourceVersion"`
	Created         string            `json:"creationTimestamp"`
	Labels          map[string]string `json:"labels,omitempty"`
}

// NewMeta returns an object's beginning.
func NewMeta(version, kind, namespace, name string) Meta {
	return Meta{version, kind, Metadata{Name: name, Namespace: namespace, UID: kind + "-" + name, Created: "2026-01-01T00:00:00Z"}}
}

func (m *Meta) meta() *Meta { return m }

// Object begins with a Meta.
type Object interface{ meta() *Meta }

// Server has objects. The methods may be called beside each other.
type Server struct {
	http *http.Server

	mu        sync.Mutex
	version   int
	resources map[Resource]*store
	news      chan struct{} // closed, and another, with every change
}

// store has the objects of one resource, as JSON.
type store struct {
	version, kind string
	objects       map[string][]byte // by namespace/name
	history       []event
}

type event struct {
	version int
	name    string
	line    []byte
}

// New returns a server without objects.
func New() *Server {
	s := &Server{version: 1, news: make(chan struct{}), resources: map[Resource]*store{
		Services: {version: "v1", kind: "Service"}, Nodes: {version: "v1", kind: "Node"}, Pods: {version: "v1", kind: "Pod"},
		Slices: {version: "discovery.k8s.io/v1", kind: "EndpointSlice"}, CIDRs: {version: "networking.k8s.io/v1", kind: "ServiceCIDR"},
		Namespaces: {version: "v1", kind: "Namespace"}, NetworkPolicies: {version: "networking.k8s.io/v1", kind: "NetworkPolicy"},
		ClusterPolicies: {version: "policy.networking.k8s.io/v1alpha2", kind: "ClusterNetworkPolicy"},
	}}
	for _, t := range s.resources {
		t.objects = map[string][]byte{}
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	return s
}

// Serve answers who connects to a listener, until Close.
func (s *Server) Serve(l net.Listener) { _ = s.http.Serve(l) }

// Close cuts all connections.
func (s *Server) Close() error { return s.http.Close() }

// Put writes an object, and tells those who watch.
func (s *Server) Put(r Resource, o Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	m := o.meta()
	m.Metadata.ResourceVersion = strconv.Itoa(s.version)
	body, err := json.Marshal(o)
	if err != nil {
		panic(err) // objects are made of texts and numbers
	}
	t, key, kind := s.resources[r], m.Metadata.Namespace+"/"+m.Metadata.Name, "MODIFIED"
	if t.objects[key] == nil {
		kind = "ADDED"
	}
	t.objects[key] = body
	line := append([]byte(`{"type":"`+kind+`","object":`), body...)
	t.history = append(t.history, event{s.version, m.Metadata.Name, append(line, "}\n"...)})
	close(s.news)
	s.news = make(chan struct{})
}
