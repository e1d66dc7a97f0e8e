package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, q := r.URL.Path, r.URL.Query()
	for _, group := range []string{"/api/v1/", "/apis/discovery.k8s.io/v1/", "/apis/networking.k8s.io/v1/", "/apis/policy.networking.k8s.io/v1alpha2/"} {
		path = strings.TrimPrefix(path, group)
	}
	resource, name, _ := strings.Cut(path, "/")
	name, _, _ = strings.Cut(name, "/") // a subresource is as its object
	w.Header().Set("Content-Type", "application/json")
	t := s.resources[Resource(resource)]
	only, byName := strings.CutPrefix(q.Get("fieldSelector"), "metadata.name=")
	if !byName { // other selectors match all that there is here
		only = ""
	}
	switch {
	case t == nil && r.Method == http.MethodPost: // an event
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	case t == nil:
		fail(w, http.StatusNotFound, "NotFound")
	case name != "":
		s.one(w, t, name)
	case q.Get("sendInitialEvents") == "true": // who asks for a list that way asks again
		fail(w, http.StatusUnprocessableEntity, "Invalid")
	case q.Get("watch") == "true" || q.Get("watch") == "1":
		from, _ := strconv.Atoi(q.Get("resourceVersion"))
		s.watch(w, r, t, from, only)
	default:
		s.list(w, t, only)
	}
}

func fail(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":%q,"reason":%q,"code":%d}`, reason, reason, code)
}

// one answers with an object, whatever is asked of it: changes are for others to make.
func (s *Server) one(w http.ResponseWriter, t *store, name string) {
	s.mu.Lock()
	body := t.objects["/"+name]
	s.mu.Unlock()
	if body == nil {
		fail(w, http.StatusNotFound, "NotFound")
		return
	}
	_, _ = w.Write(body)
}

func (s *Server) list(w http.ResponseWriter, t *store, only string) {
	s.mu.Lock()
	version := s.version
	bodies := make([][]byte, 0, len(t.objects))
	for key, body := range t.objects {
		if only == "" || strings.HasSuffix(key, "/"+only) {
			bodies = append(bodies, body)
		}
	}
	s.mu.Unlock()
	fmt.Fprintf(w, `{"kind":"%sList","apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[`, t.kind, t.version, version)
	for i, body := range bodies {
		if i > 0 {
			_, _ = io.WriteString(w, ",")
		}
		_, _ = w.Write(body)
	}
	_, _ = io.WriteString(w, "]}")
}

// watch tells what happened after a version, and what happens from now on.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, t *store, from int, only string) {
	w.WriteHeader(http.StatusOK)
	for next := 0; ; {
		s.mu.Lock()
		news, events := s.news, t.history[next:]
		s.mu.Unlock()
		next += len(events)
		for _, e := range events {
			if e.version <= from || only != "" && e.name != only {
				continue
			}
			if _, err := w.Write(e.line); err != nil {
				return
			}
		}
		w.(http.Flusher).Flush()
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
	}
}
