package watch

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/polder-net/polder/internal/cluster"
)

func TestAnEventAboutAPodIsWrittenInItsNamespace(t *testing.T) {
	var path string
	var got corev1.Event
	decoder := serializer.NewCodecFactory(newScheme()).UniversalDeserializer()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if _, _, err := decoder.Decode(body, nil, &got); err != nil {
			t.Error(err)
		}
		path = r.Method + " " + r.URL.Path
		w.WriteHeader(http.StatusCreated)
	}))
	defer api.Close()
	cfg := &rest.Config{Host: api.URL}
	k, err := newKube(cfg, newServers(cfg, nil, filepath.Join(t.TempDir(), "apiservers"), quiet()), "node-1", false, true, quiet())
	if err != nil {
		t.Fatal(err)
	}
	pod := cluster.Name{Namespace: "db", Name: strings.Repeat("p", 253)}
	if err := k.WarnPod(t.Context(), pod, "u1", "PolicyDenied", strings.Repeat("m", 2000)); err != nil {
		t.Fatal(err)
	}
	if path != "POST /api/v1/namespaces/db/events" || got.InvolvedObject.Name != pod.Name || got.InvolvedObject.UID != "u1" ||
		got.Type != "Warning" || got.Reason != "PolicyDenied" || len(got.Message) != 1024 || len(got.GenerateName) > 248 || got.Source.Host != "node-1" {
		t.Errorf("%s: %+v", path, got)
	}
}
