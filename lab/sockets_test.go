package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/lab"
)

// sockets opens sockets in a place as its programs would: in its control group, where the hooks on sockets see them.
// A thread that only enters the network namespace is not enough for that. They are made by a process of the place, which
// is this test's program, and used by the test.
type sockets struct{ path string }

// patience is how long an answer may take that must come. What is asserted must not depend on time.
const patience = 10 * time.Second

// inPlace marks the process that makes sockets.
const inPlace = "POLDER_LAB_TEST_SOCKETS"

// wanted is a socket that somebody wants; with answered, that it was made.
type wanted struct {
	Network  string // "tcp", "udp"; without To, one that is not connected
	From     netip.Addr
	To       netip.AddrPort
	Patience time.Duration
}

type answered struct {
	Errno   syscall.Errno
	Error   string
	Timeout bool
}

// openSockets starts the process in a place. It ends with the test, or with the place.
func openSockets(t testing.TB, at lab.Place) *sockets {
	t.Helper()
	folder, err := os.MkdirTemp("", "polder-sockets-") // the test's own would be too long a path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	s := &sockets{filepath.Join(folder, "s")}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	file, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := at.Command(context.Background(), "/proc/self/exe")
	cmd.Env, cmd.ExtraFiles, cmd.Stderr = append(os.Environ(), inPlace+"=1"), []*os.File{file}, os.Stderr
	life, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("start process in %s: %v", at.Name, err)
	}
	t.Cleanup(func() {
		life.Close()
		cmd.Wait()
	})
	return s
}

// serveSockets is the life of the process: it ends when nobody holds its standard input any more.
func serveSockets() int {
	file := os.NewFile(3, "listener")
	listener, err := net.FileListener(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sockets:", err)
		return 1
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveSocket(conn.(*net.UnixConn))
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	return 0
}

func serveSocket(conn *net.UnixConn) {
	defer conn.Close()
	var w wanted
	if json.NewDecoder(conn).Decode(&w) != nil {
		return
	}
	made, err := w.open()
	var a answered
	var rights []byte
	if err != nil {
		a.Error, a.Timeout = err.Error(), isTimeout(err)
		errors.As(err, &a.Errno)
	} else {
		defer made.Close()
		rights = unix.UnixRights(int(made.Fd()))
	}
	text, _ := json.Marshal(a) // of plain values
	conn.WriteMsgUnix(append(text, '\n'), rights, nil)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// open makes the socket, in the process.
func (w wanted) open() (*os.File, error) {
	if !w.To.IsValid() {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.From, 0)))
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		return conn.File()
	}
	dialer := net.Dialer{Timeout: w.Patience}
	dialer.SetMultipathTCP(false)
	if w.From.IsValid() && w.Network == "tcp" {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(w.From, 0))
	} else if w.From.IsValid() {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.From, 0))
	}
	conn, err := dialer.Dial(w.Network, w.To.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(interface{ File() (*os.File, error) }).File()
}

// dial opens a connection, or a connected socket for datagrams. from need not be valid.
func (s *sockets) dial(network string, from netip.Addr, to netip.AddrPort, limit time.Duration) (net.Conn, error) {
	file, err := s.ask(wanted{network, from, to, limit})
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return net.FileConn(file)
}

// datagrams opens a socket for datagrams that is not connected, at one of the place's addresses.
func (s *sockets) datagrams(from netip.Addr) (*net.UDPConn, error) {
	file, err := s.ask(wanted{Network: "udp", From: from})
	if err != nil {
		return nil, err
	}
	defer file.Close()
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func (s *sockets) ask(w wanted) (*os.File, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(w); err != nil {
		return nil, err
	}
	text, oob := make([]byte, 4096), make([]byte, 64)
	n, oobn, _, _, err := conn.ReadMsgUnix(text, oob)
	if err != nil {
		return nil, err
	}
	var a answered
	if err := json.Unmarshal(text[:n], &a); err != nil {
		return nil, err
	}
	switch {
	case a.Timeout:
		return nil, fmt.Errorf("%s: %w", a.Error, os.ErrDeadlineExceeded)
	case a.Errno != 0:
		return nil, fmt.Errorf("%s: %w", a.Error, a.Errno)
	case a.Error != "":
		return nil, errors.New(a.Error)
	}
	return received(oob[:oobn])
}

// received is the file that came with a message.
func received(oob []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("no socket came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("no socket came: %v", err)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "socket"), nil
}
