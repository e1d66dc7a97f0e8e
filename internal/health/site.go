package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	// slow is how long a client may take over a request: whoever holds a connection open costs a descriptor.
	slow = 5 * time.Second

	// retryEvery is how often Serve tries an address that somebody else has.
	retryEvery = 5 * time.Second
)

// site answers HTTP on one address, or on a port of all addresses of both families, until it is closed.
type site struct {
	server    *http.Server
	listeners []net.Listener
	serving   sync.WaitGroup
	ended     chan struct{} // closed when a listener is of no use any more, by close or by itself
	end       func()        // closes ended
}

// open listens and answers, or leaves nothing behind.
func open(at netip.AddrPort, handler http.Handler) (*site, error) {
	s := &site{
		server: &http.Server{Handler: handler, ReadHeaderTimeout: slow, ReadTimeout: slow, WriteTimeout: slow, IdleTimeout: time.Minute},
		ended:  make(chan struct{}),
	}
	s.end = sync.OnceFunc(func() { close(s.ended) })
	if err := s.listen(at); err != nil {
		s.close()
		return nil, err
	}
	for _, l := range s.listeners {
		s.serving.Go(func() {
			defer s.end()
			s.server.Serve(l) // whoever waits for ended opens it again
		})
	}
	return s, nil
}

// listen opens a listener a family where all addresses are meant. One for both would depend on whether IPv6 worked
// when the process began, and on the node's bindv6only.
func (s *site) listen(at netip.AddrPort) error {
	if !at.Addr().IsUnspecified() {
		return s.listenOn("tcp", at)
	}
	if err := s.listenOn("tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())); err != nil {
		return err
	}
	err := s.listenOn("tcp6", netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port()))
	if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		return nil // a node without IPv6
	}
	return err
}

func (s *site) listenOn(network string, at netip.AddrPort) error {
	l, err := net.Listen(network, at.String())
	if err == nil {
		s.listeners = append(s.listeners, l)
	}
	return err
}

// alive says whether all listeners still answer.
func (s *site) alive() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// close ends everything. The port is free when it returns: a server alone forgets listeners that it has not begun with.
func (s *site) close() {
	for _, l := range s.listeners {
		l.Close()
	}
	s.server.Close()
	s.serving.Wait()
	s.end()
}

// Serve answers on an address until ctx is done; an unspecified one stands for all addresses of both families. While
// somebody else has the address it says so, once, and tries again: a kube-proxy may go.
func Serve(ctx context.Context, log *slog.Logger, at netip.AddrPort, handler http.Handler) {
	serve(ctx, log, at, handler, retryEvery)
}

func serve(ctx context.Context, log *slog.Logger, at netip.AddrPort, handler http.Handler, every time.Duration) {
	told := ""
	for {
		s, err := open(at, handler)
		switch {
		case err == nil:
			if told != "" {
				log.Info("answering for the service proxy after all", "addr", at)
			}
			told = ""
			select {
			case <-ctx.Done():
			case <-s.ended:
			}
			s.close()
		case err.Error() != told:
			told = err.Error()
			log.Warn("answering for the service proxy", "addr", at, "err", explain(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
	}
}

// explain adds what to do to an error of listening.
func explain(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: does a kube-proxy run on this node? Remove it, or let it serve", err)
	}
	return err
}
