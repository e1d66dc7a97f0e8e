// Package health answers the HTTP health checks that load balancers and people send to a node's service proxy, as
// kube-proxy does. It is told what is so: it looks at neither cluster nor kernel, and decides nothing else.
package health

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/polder-net/polder/internal/cluster"
)

// Check is what one Service's load balancer asks of this node.
type Check struct {
	Port       uint16 // healthCheckNodePort; 0: nobody asks
	LocalReady int    // endpoints of this node that are ready
}

// Server answers for every Service with a healthCheckNodePort, on all of the node's addresses. It belongs to one
// goroutine, which closes it.
type Server struct {
	proxy *Proxy
	open  map[cluster.ServiceName]*service
}

// NewServer answers nothing yet. Services are healthy only while the proxy is.
func NewServer(proxy *Proxy) *Server {
	return &Server{proxy: proxy, open: map[cluster.ServiceName]*service{}}
}

// Sync makes the open ports those of want. Whom it returns an error for is tried again by the next Sync; the others
// are served.
func (s *Server) Sync(want map[cluster.ServiceName]Check) []error {
	for name, svc := range s.open { // first: a port may have gone from one Service to another
		if want[name].Port != svc.port || !svc.site.alive() {
			svc.site.close()
			delete(s.open, name)
		}
	}
	var errs []error
	for _, name := range slices.SortedFunc(maps.Keys(want), cluster.ServiceName.Compare) {
		check := want[name]
		if svc := s.open[name]; svc != nil {
			svc.localReady.Store(int64(check.LocalReady))
		} else if check.Port != 0 {
			if err := s.add(name, check); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

func (s *Server) add(name cluster.ServiceName, check Check) error {
	svc := &service{name: name, proxy: s.proxy, port: check.Port}
	svc.localReady.Store(int64(check.LocalReady)) // before anybody can ask
	var err error
	svc.site, err = open(netip.AddrPortFrom(netip.IPv4Unspecified(), check.Port), svc)
	if err != nil {
		return fmt.Errorf("listen on healthCheckNodePort of Service %s: %w", name, err)
	}
	s.open[name] = svc
	return nil
}

// Close frees all ports.
func (s *Server) Close() { s.Sync(nil) }

// service answers for one Service, whatever path is asked for.
type service struct {
	name       cluster.ServiceName
	proxy      *Proxy
	port       uint16
	localReady atomic.Int64
	site       *site
}

// serviceBody is kube-proxy's, field by field.
type serviceBody struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int64 `json:"localEndpoints"`
	ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
}

func (s *service) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	body := serviceBody{LocalEndpoints: s.localReady.Load(), ServiceProxyHealthy: s.proxy.Healthy()}
	body.Service.Namespace, body.Service.Name = s.name.Namespace, s.name.Name
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(body.LocalEndpoints, 10))
	text, err := json.MarshalIndent(body, "", "\t")
	respond(w, body.LocalEndpoints > 0 && body.ServiceProxyHealthy, text, err)
}

// respond writes a health check's answer and returns its status.
func respond(w http.ResponseWriter, healthy bool, text []byte, err error) int {
	if err != nil { // of strings, numbers and times there is none
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return http.StatusInternalServerError
	}
	status := http.StatusServiceUnavailable
	if healthy {
		status = http.StatusOK
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(text)
	return status
}
