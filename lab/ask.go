package lab

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Answer is what a client got from a pod that serves, or why it got nothing.
type Answer struct {
	Name  string         `json:"name,omitempty"`  // of the pod
	Seen  netip.AddrPort `json:"seen,omitzero"`   // the client's address as the pod saw it
	Own   netip.AddrPort `json:"own,omitzero"`    // the client's address as its own socket says
	Error string         `json:"error,omitempty"` // then there is no name
}

// Ask asks who serves at an address, from the calling thread's network namespace and control group, with a socket of
// its own. network is "tcp" or "udp"; an answer may take as long as patience.
func Ask(network string, to netip.AddrPort, patience time.Duration) Answer {
	a, err := ask(network, to, patience)
	if err != nil {
		return Answer{Own: a.Own, Error: err.Error()}
	}
	return a
}

func ask(network string, to netip.AddrPort, patience time.Duration) (a Answer, err error) {
	dialer := net.Dialer{Timeout: patience}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.Dial(network, to.String())
	if err != nil {
		return a, err
	}
	defer conn.Close()
	if a.Own, err = netip.ParseAddrPort(conn.LocalAddr().String()); err != nil {
		return a, fmt.Errorf("read own address: %w", err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("who\n")); err != nil {
		return a, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return a, err
	}
	name, seen, _ := strings.Cut(strings.TrimSpace(line), " ")
	if a.Seen, err = netip.ParseAddrPort(seen); err != nil {
		return a, fmt.Errorf("read answer %q: %w", line, err)
	}
	a.Name = name
	return a, nil
}
