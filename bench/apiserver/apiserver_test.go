package apiserver

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

type thing struct{ Meta }

func TestAWatchTellsWhatHappenedSinceTheListAndWhatHappensNow(t *testing.T) {
	s := New()
	server := httptest.NewServer(s)
	defer server.Close()
	s.Put(Nodes, &thing{NewMeta("v1", "Node", "", "a")}) // version 2: in the list
	s.Put(Nodes, &thing{NewMeta("v1", "Node", "", "a")})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/nodes?watch=true&resourceVersion=2", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for i, want := range []string{`{"type":"MODIFIED"`, `{"type":"ADDED"`} {
		if i == 1 {
			s.Put(Nodes, &thing{NewMeta("v1", "Node", "", "b")})
		}
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), want) {
			t.Fatalf("%q, want %s (%v)", lines.Text(), want, lines.Err())
		}
	}
}

func TestWhoAsksForAStreamedListIsToldToAskForAPlainOne(t *testing.T) {
	w := httptest.NewRecorder()
	New().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/services?watch=true&sendInitialEvents=true", nil))
	if w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), `"reason":"Invalid"`) {
		t.Errorf("%d, %s", w.Code, w.Body)
	}
}
