package lab_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/lab"
)

// echoServer echoes connections to any of a pod's addresses until the test ends, and returns its port.
func echoServer(t *testing.T, p *lab.Pod) int {
	t.Helper()
	var l net.Listener
	err := p.Do(func() (err error) {
		l, err = net.Listen("tcp", ":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// echoes opens a connection from an address and has a word echoed.
func echoes(from lab.Place, source, to netip.Addr, port int) error {
	return from.Do(func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), Timeout: 15 * time.Second}
		conn, err := d.Dial("tcp", netip.AddrPortFrom(to, uint16(port)).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(15 * time.Second))
		word := []byte("hello")
		if _, err := conn.Write(word); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, word); err != nil {
			return err
		}
		if string(word) != "hello" {
			return fmt.Errorf("the echo is %q", word)
		}
		// The other side closes first: it would ask in vain for the last word of a pod that is deleted now.
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, conn)
		return err
	})
}

// isTryAgain says whether a plugin said that its runtime shall try again, CNI's code 11. Of an agent that was killed or
// stopped with the question in its hands, an I/O error (5) is as good: nobody knows better, and runtimes try again.
func isTryAgain(err error) bool {
	var said *types.Error
	if !errors.As(err, &said) {
		return false
	}
	return said.Code == api.CodeTryAgain || said.Code == api.CodeIO &&
		(strings.Contains(err.Error(), "connection reset by peer") || strings.Contains(err.Error(), "read request: "))
}
