package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/polder-net/polder/internal/cluster"
)

// rememberedFile holds the addresses that the API server's Service had when it was last seen, one a line. It must
// outlive a boot, after which nothing translates that Service's cluster IP until the agent has reached the API server.
const rememberedFile = "/var/lib/polder/apiservers"

// maxServers bounds how many addresses are tried one after the other.
const maxServers = 16

// apiService is the API server's own Service.
func apiService() cluster.ServiceName {
	return cluster.ServiceName{Namespace: "default", Name: "kubernetes"}
}

// servers are the addresses at which the API server may answer. Whichever does must have a certificate for the
// configured one, so an address that is somebody else's by now does no harm.
type servers struct {
	configured string // host:port as the client asks for it; empty: there is nothing besides
	others     []string
	file       string
	log        *slog.Logger
	dialer     net.Dialer

	remembered atomic.Pointer[[]string]
	last       atomic.Pointer[string] // which answered
}

func newServers(cfg *rest.Config, others []string, file string, log *slog.Logger) *servers {
	s := &servers{configured: address(cfg), others: others, file: file, log: log}
	s.dialer = net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second} // there may be many to try
	known, err := readServers(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("addresses of the API server are not remembered", "err", err)
	}
	s.remembered.Store(&known)
	return s
}

// address is the host:port of a configuration's server, empty if there must be no other: where no certificate says
// who answers, a token might go to anybody.
func address(cfg *rest.Config) string {
	u, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil || u.Scheme != "https" || cfg.Insecure {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))
}

// dial connects to the API server: at the configured address, at the others, at the remembered ones. What is to go
// elsewhere, to a proxy, goes there.
func (s *servers) dial(ctx context.Context, network, to string) (net.Conn, error) {
	conn, err := s.dialer.DialContext(ctx, network, to)
	if to != s.configured {
		return conn, err
	}
	errs := []error{err}
	for _, at := range slices.Concat([]string{to}, s.others, *s.remembered.Load()) {
		if at != to {
			conn, err = s.dialer.DialContext(ctx, network, at)
			errs = append(errs, err)
		}
		if err == nil {
			s.note(at)
			return conn, nil
		}
	}
	return nil, errors.Join(errs...)
}

// note says when another address answers than before.
func (s *servers) note(at string) {
	if last := s.last.Swap(&at); last != nil && *last != at || last == nil && at != s.configured {
		s.log.Info("the API server answers at another address", "address", at, "configured", s.configured)
	}
}

// remember keeps the addresses of the API server's Service, in memory and for the next start. None are no news: that
// is when the last ones are needed.
func (s *servers) remember(addresses []string) {
	if len(addresses) == 0 || slices.Equal(addresses, *s.remembered.Load()) {
		return
	}
	s.remembered.Store(&addresses)
	if err := writeServers(s.file, addresses); err != nil {
		s.log.Warn("addresses of the API server are remembered until the agent ends only", "err", err)
	}
}

// rememberServers follows the API server's own Service until the context ends.
func (k *KubeSource) rememberServers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.apiMoved:
			k.servers.remember(serversOf(k.grouped.get(apiService())))
		}
	}
}

// serversOf lists the addresses of a Service that serve, sorted.
func serversOf(o *cluster.ServiceObjects) []string {
	var all []netip.AddrPort
	if o == nil {
		return nil
	}
	for _, s := range o.Slices {
		for _, p := range s.Ports {
			for _, e := range s.Endpoints {
				if p.Protocol == cluster.TCP && e.Serving {
					all = append(all, netip.AddrPortFrom(e.Addr, p.Port))
				}
			}
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	all = slices.Compact(all)
	var texts []string
	for _, a := range all[:min(len(all), maxServers)] {
		texts = append(texts, a.String())
	}
	return texts
}

// readServers reads a file of addresses. What is none is left out: it is a hint, and no more.
func readServers(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read API server addresses: %w", err)
	}
	var known []string
	for _, line := range strings.Fields(string(data)) {
		if a, err := netip.ParseAddrPort(line); err == nil && len(known) < maxServers {
			known = append(known, a.String())
		}
	}
	return known, nil
}

// writeServers replaces a file of addresses at once: the node may lose its power at any moment.
func writeServers(file string, addresses []string) error {
	dir := filepath.Dir(file)
	err := os.MkdirAll(dir, 0o755)
	if err != nil {
		return fmt.Errorf("write API server addresses: %w", err)
	}
	f, err := os.CreateTemp(dir, ".apiservers-")
	if err != nil {
		return fmt.Errorf("write API server addresses: %w", err)
	}
	_, err = f.WriteString(strings.Join(addresses, "\n") + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write API server addresses: %w", err)
	}
	return nil
}
