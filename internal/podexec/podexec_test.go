package podexec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polder-net/polder/internal/cluster"
)

// server is an API server, as far as a check needs one. Its exec runs a program that echoes its input in upper case
// until the input ends, or until it reads "fail".
type server struct {
	t    *testing.T
	mu   sync.Mutex
	runs []string // path and query of each exec
}

// start returns a client of a new server.
func start(t *testing.T) (*server, *Cluster) {
	t.Helper()
	s := &server{t: t}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/nodes", s.nodes)
	mux.HandleFunc("GET /api/v1/pods", s.pods)
	mux.HandleFunc("GET /apis/apps/v1/namespaces/kube-system/daemonsets/polder", s.daemonSet)
	mux.HandleFunc("GET /api/v1/namespaces/kube-system/pods", s.agents)
	mux.HandleFunc("GET /api/v1/namespaces/kube-system/pods/{pod}/exec", s.exec)
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
"users":[{"name":"u","user":{"token":"t"}}]}`, web.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func (s *server) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.t.Error(err)
	}
}

func (s *server) nodes(w http.ResponseWriter, _ *http.Request) {
	node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	node.Spec.PodCIDRs = []string{"10.244.1.0/24", "fd00:244:0:1::/64", "nonsense"}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "a"}, {Type: corev1.NodeExternalIP, Address: "192.0.2.1"},
		{Type: corev1.NodeInternalIP, Address: "172.30.0.11"}, {Type: corev1.NodeInternalIP, Address: "nonsense"},
	}
	s.answer(w, corev1.NodeList{Items: []corev1.Node{node}})
}

func (s *server) pods(w http.ResponseWriter, r *http.Request) {
	if got := r.URL.Query().Get("fieldSelector"); got != "status.phase=Running" {
		s.t.Errorf("pods are asked for by %q", got)
	}
	list := corev1.PodList{Items: []corev1.Pod{aPod("web", "a"), aPod("host", "a"), aPod("going", "a")}}
	list.Items[0].Status.PodIPs = []corev1.PodIP{{IP: "10.244.1.2"}, {IP: "fd00:244:0:1::2"}}
	list.Items[1].Spec.HostNetwork = true
	list.Items[2].DeletionTimestamp = &metav1.Time{Time: time.Now()}
	s.answer(w, list)
}

func aPod(name, node string) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	p.Spec.NodeName, p.Spec.Containers = node, []corev1.Container{{Name: "main"}, {Name: "second"}}
	return p
}

func (s *server) daemonSet(w http.ResponseWriter, _ *http.Request) {
	set := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "polder"}}
	set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "polder"}}
	s.answer(w, set)
}

func (s *server) agents(w http.ResponseWriter, r *http.Request) {
	if got := r.URL.Query().Get("labelSelector"); got != "app=polder" {
		s.t.Errorf("agents are asked for by %q", got)
	}
	list := corev1.PodList{Items: []corev1.Pod{aPod("polder-2", "b"), aPod("polder-0", "a"), aPod("polder-1", "a")}}
	list.Items[1].DeletionTimestamp = &metav1.Time{Time: time.Now()} // makes way for polder-1
	s.answer(w, list)
}

// exec speaks v5.channel.k8s.io: each message starts with its channel; 255 and a channel says that this one ends.
func (s *server) exec(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.runs = append(s.runs, r.URL.String())
	s.mu.Unlock()
	if r.PathValue("pod") == "forbidden" {
		http.Error(w, "no", http.StatusForbidden)
		return
	}
	const stdin, stdout, stderr, status, closing = 0, 1, 2, 3, 255
	websocket.Server{
		Handshake: func(c *websocket.Config, r *http.Request) error {
			c.Protocol = []string{"v5.channel.k8s.io"}
			return nil
		},
		Handler: func(conn *websocket.Conn) {
			conn.PayloadType = websocket.BinaryFrame
			end := metav1.Status{Status: metav1.StatusSuccess}
			for {
				var m []byte
				if websocket.Message.Receive(conn, &m) != nil || len(m) == 2 && m[0] == closing && m[1] == stdin {
					break
				}
				if m[0] == stdin && bytes.Equal(m[1:], []byte("fail")) {
					conn.Write(append([]byte{stderr}, "it hurts"...))
					end = metav1.Status{Status: metav1.StatusFailure, Message: "command terminated with exit code 3"}
					break
				}
				if m[0] == stdin {
					conn.Write(append([]byte{stdout}, bytes.ToUpper(m[1:])...))
				}
			}
			b, err := json.Marshal(end)
			if err != nil {
				s.t.Error(err)
			}
			conn.Write(append([]byte{status}, b...))
			conn.WriteClose(1000)
		},
	}.ServeHTTP(w, r)
}

func TestNodesAndPodsAreReadAsTheObjectsSayThem(t *testing.T) {
	_, c := start(t)
	nodes, err := c.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantNodes := []cluster.Node{{
		Name:      "a",
		Addresses: []netip.Addr{netip.MustParseAddr("172.30.0.11"), netip.MustParseAddr("192.0.2.1")},
		PodCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:244:0:1::/64")},
	}}
	if !reflect.DeepEqual(nodes, wantNodes) {
		t.Errorf("nodes are %v, want %v", nodes, wantNodes)
	}
	pods, err := c.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantPods := []cluster.Pod{{
		Namespace: "ns", Name: "web", Node: "a",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:244:0:1::2")},
	}}
	if !reflect.DeepEqual(pods, wantPods) {
		t.Errorf("pods are %v, want %v", pods, wantPods)
	}
}

func TestEachNodeHasTheAgentThatStays(t *testing.T) {
	_, c := start(t)
	got, err := c.Agents(t.Context())
	if want := []Agent{{"a", "polder-1", "main"}, {"b", "polder-2", "main"}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("agents are %v, %v, want %v", got, err, want)
	}
}

func run(t *testing.T, c *Cluster, stderr io.Writer) io.ReadWriteCloser {
	t.Helper()
	stream, err := c.Run(t.Context(), Agent{"a", "polder-1", "main"}, stderr, "polder", "probe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	return stream
}

func TestAProgramsInputAndOutputAreConnected(t *testing.T) {
	s, c := start(t)
	stream := run(t, c, io.Discard)
	for _, word := range []string{"one", "two"} {
		if _, err := stream.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(stream, got); err != nil || string(got) != strings.ToUpper(word) {
			t.Errorf("the echo of %s is %q, %v", word, got, err)
		}
	}
	for range 2 {
		if err := stream.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	const want = "/api/v1/namespaces/kube-system/pods/polder-1/exec?command=polder&command=probe&container=main&stderr=true&stdin=true&stdout=true"
	if !reflect.DeepEqual(s.runs, []string{want}) {
		t.Errorf("what was run is %q", s.runs)
	}
}

func TestTheReaderLearnsHowAProgramEnded(t *testing.T) {
	_, c := start(t)
	var stderr bytes.Buffer
	stream := run(t, c, &stderr)
	if _, err := stream.Write([]byte("fail")); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Read(make([]byte, 10))
	if err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "exit code 3") {
		t.Errorf("the end is %v", err)
	}
	if stderr.String() != "it hurts" {
		t.Errorf("standard error is %q", &stderr)
	}
}

func TestAServerThatRefusesIsAnErrorOfTheReader(t *testing.T) {
	_, c := start(t)
	stream, err := c.Run(t.Context(), Agent{"a", "forbidden", "main"}, io.Discard, "polder")
	if err == nil {
		defer stream.Close()
		_, err = stream.Read(make([]byte, 10))
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the error is %v", err)
	}
}
