package watch

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"

	"github.com/polder-net/polder/internal/cluster"
)

// tlsServer starts a server that says nothing of those who do not trust it.
func tlsServer(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	return s
}

// tlsAPI makes the fake listen with a certificate for 127.0.0.1, and returns the file of the authority to trust.
func tlsAPI(t *testing.T) (*fakeAPI, string) {
	t.Helper()
	f := fakeAPIOn(t, tlsServer)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	write(t, ca, authority(f.Certificate()))
	return f, ca
}

func authority(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: c.Raw}))
}

// nobody returns an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { must(t, l.Close()) }()
	return l.Addr().String()
}

func TestTheAPIServerIsReachedWithoutItsConfiguredAddress(t *testing.T) {
	f, ca := tlsAPI(t)
	f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
	address := f.Listener.Addr().String()
	for name, where := range map[string]struct{ others, remembered []string }{
		"the other one answers":                        {others: []string{nobody(t), address}},
		"a remembered one answers":                     {others: []string{nobody(t)}, remembered: []string{nobody(t), address}},
		"a remembered one answers, of what is no more": {remembered: []string{"garbage", address}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "apiservers")
			write(t, file, strings.Join(where.remembered, "\n"))
			cfg := &rest.Config{Host: "https://" + nobody(t), TLSClientConfig: rest.TLSClientConfig{CAFile: ca}}
			k, err := newKube(cfg, newServers(cfg, where.others, file, logTo(t)), "a", false, false, logTo(t))
			must(t, err)
			run(t, k.Run)
			awaitText(t, k, nodeA)
		})
	}
}

// What was an API server's address may be anybody's. Nobody gets a request, and with it the token, who has no
// certificate for the configured name.
func TestAnAddressOfSomebodyElseIsNotTrusted(t *testing.T) {
	f, ca := tlsAPI(t)
	stranger := tlsServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a stranger was asked") }))
	defer stranger.Close()
	for name, cfg := range map[string]*rest.Config{
		"a certificate for another name":    {Host: "https://localhost:1", TLSClientConfig: rest.TLSClientConfig{CAFile: ca}},
		"no certificate is asked for":       {Host: "https://127.0.0.1:1", TLSClientConfig: rest.TLSClientConfig{Insecure: true}},
		"there is no certificate":           {Host: "http://127.0.0.1:1"},
		"the address is not the configured": {Host: "https://127.0.0.1:2", TLSClientConfig: rest.TLSClientConfig{CAFile: ca}},
	} {
		file := filepath.Join(t.TempDir(), "apiservers")
		write(t, file, f.Listener.Addr().String()+"\n"+stranger.Listener.Addr().String())
		s := newServers(cfg, nil, file, quiet())
		switch strings.Contains(cfg.Host, ":2") {
		case true: // as of a proxy
			if c, err := s.dial(context.Background(), "tcp", "127.0.0.1:1"); err == nil {
				t.Errorf("%s: connected to %s", name, c.RemoteAddr())
			}
		default:
			k, err := newKube(cfg, s, "a", false, false, quiet())
			must(t, err)
			if n, err := k.getNode(t.Context()); err == nil {
				t.Errorf("%s: got %s", name, n.Name)
			}
		}
	}
	if n := f.count(""); n > 0 {
		t.Errorf("%d requests", n)
	}
}

func TestTheAPIServersOwnServiceIsRemembered(t *testing.T) {
	f := newFakeAPI(t)
	f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
	own := kubeSlice("default", "kubernetes", "kubernetes", "172.18.0.3", "172.18.0.2", "172.18.0.4")
	no := false
	own.Endpoints[2].Conditions.Serving = &no
	f.put(own)
	k := f.sourceOf(t, "a", true, false)
	run(t, k.Run)
	awaitRemembered(t, k, "172.18.0.2:8080", "172.18.0.3:8080")
	f.put(kubeSlice("default", "kubernetes", "kubernetes", "172.18.0.5"))
	awaitRemembered(t, k, "172.18.0.5:8080")
	f.put(kubeSlice("default", "kubernetes", "kubernetes")) // that is when they are needed
	f.put(kubeNode("b", "10.0.0.2", "10.1.1.0/24"))
	await(t, k, "an empty slice", func(s *cluster.Snapshot) bool {
		return s != nil && strings.Contains(text(s), "slice kubernetes of default/kubernetes v4=true ports=[{http TCP 8080}]\n")
	})
	k.servers.remember(serversOf(k.grouped.get(apiService())))
	awaitRemembered(t, k, "172.18.0.5:8080")
	entries, err := os.ReadDir(filepath.Dir(k.servers.file))
	if must(t, err); len(entries) != 1 {
		t.Errorf("files are left: %v", entries)
	}
}

// awaitRemembered waits until the source remembers those addresses, in memory and in its file.
func awaitRemembered(t *testing.T, k *KubeSource, want ...string) {
	t.Helper()
	for range 3000 {
		got, _ := readServers(k.servers.file)
		if slices.Equal(got, want) && slices.Equal(*k.servers.remembered.Load(), want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("remembered: %v, want %v", *k.servers.remembered.Load(), want)
}

func TestAMemoryThatCannotBeWrittenIsNoFault(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	s := newServers(&rest.Config{Host: "https://10.96.0.1"}, nil, filepath.Join(dir, "file", "apiservers"), quiet())
	s.remember([]string{"172.18.0.2:6443"})
	if got := *s.remembered.Load(); len(got) != 1 {
		t.Errorf("remembered: %v", got)
	}
}

func TestAnAddressThatWasSetByHandIsKnown(t *testing.T) {
	for name, tc := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"the kubelet's own":  {map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_PORT": "tcp://10.96.0.1:443"}, false},
		"the kubelet's IPv6": {map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_PORT": "tcp://[fd00::1]:443"}, false},
		"another address":    {map[string]string{"KUBERNETES_SERVICE_HOST": "172.18.0.2", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_PORT": "tcp://10.96.0.1:443"}, true},
		"another port":       {map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443", "KUBERNETES_PORT": "tcp://10.96.0.1:443"}, true},
		"no kubelet at all":  {map[string]string{"KUBERNETES_SERVICE_HOST": "172.18.0.2", "KUBERNETES_SERVICE_PORT": "6443"}, true},
	} {
		if got := setByHand(func(key string) string { return tc.env[key] }); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestTheKubeletsAddressIsPreferred(t *testing.T) {
	f, ca := tlsAPI(t)
	good, err := os.ReadFile(ca)
	must(t, err)
	const other = `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: "%s", certificate-authority: %s}}], users: [{name: u, user: {token: secret}}]}`
	for name, tc := range map[string]struct {
		files map[string]string
		host  string // empty: as configured
	}{
		"nothing is there":     {nil, ""},
		"kubeadm's":            {map[string]string{"etc/kubernetes/kubelet.conf": fmt.Sprintf(other, f.URL, "/pki/ca.crt"), "pki/ca.crt": string(good)}, f.URL},
		"a relative authority": {map[string]string{"var/lib/kubelet/kubeconfig": fmt.Sprintf(other, f.URL, "pki/ca.crt"), "var/lib/kubelet/pki/ca.crt": string(good)}, f.URL},
		"the first of two": {map[string]string{"etc/kubernetes/kubelet.conf": fmt.Sprintf(other, f.URL, "/ca.crt"), "ca.crt": string(good),
			"var/lib/kubelet/kubeconfig": fmt.Sprintf(other, "https://10.0.0.9", "/ca.crt")}, f.URL},
		"an authority that is not trusted": {map[string]string{"etc/kubernetes/kubelet.conf": fmt.Sprintf(other, f.URL, "/ca.crt"), "ca.crt": "none"}, ""},
		"an authority that is not there":   {map[string]string{"etc/kubernetes/kubelet.conf": fmt.Sprintf(other, f.URL, "/ca.crt")}, ""},
		"no https":                         {map[string]string{"etc/kubernetes/kubelet.conf": fmt.Sprintf(other, "http://10.0.0.9", "/ca.crt"), "ca.crt": string(good)}, ""},
		"no cluster":                       {map[string]string{"etc/kubernetes/kubelet.conf": "{apiVersion: v1, kind: Config}"}, ""},
		"no configuration":                 {map[string]string{"etc/kubernetes/kubelet.conf": "{"}, ""},
		"a folder":                         {map[string]string{"etc/kubernetes/kubelet.conf/x": ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, data := range tc.files {
				write(t, filepath.Join(root, path), data)
			}
			cfg := &rest.Config{Host: "https://10.96.0.1:443", BearerToken: "own", TLSClientConfig: rest.TLSClientConfig{CAFile: ca}}
			want := rest.CopyConfig(cfg)
			others := preferKubelet(cfg, root, logTo(t))
			if tc.host != "" {
				want.Host = tc.host
			}
			if cfg.Host != want.Host || cfg.BearerToken != "own" || cfg.CAFile != ca || cfg.CertFile != "" {
				t.Errorf("got %+v", cfg)
			}
			if (len(others) > 0) != (tc.host != "") || len(others) > 0 && others[0] != "10.96.0.1:443" {
				t.Errorf("others: %v", others)
			}
		})
	}
}
