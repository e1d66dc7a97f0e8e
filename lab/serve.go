package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// HoldPod is the life of a pod's process: at each port it answers every line that comes by TCP, and every datagram,
// with its name and the address it sees the sender have. To HTTP it answers in kind. Without ports it does nothing.
// It ends when ctx is done.
func HoldPod(ctx context.Context, name string, ports []uint16) error {
	if len(ports) == 0 {
		HoldStill(ctx)
		return nil
	}
	all, ctx := errgroup.WithContext(ctx)
	for _, port := range ports {
		packets, err := listenPackets(ctx, port)
		if err != nil {
			return fmt.Errorf("serve port %d: %w", port, err)
		}
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(false) // plain TCP, as nearly everybody speaks it
		listener, err := lc.Listen(ctx, "tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			return fmt.Errorf("serve port %d: %w", port, err)
		}
		context.AfterFunc(ctx, func() {
			packets.Close()
			listener.Close()
		})
		all.Go(func() error { return answerPackets(packets, name) })
		all.Go(func() error { return answerConns(ctx, listener, name) })
	}
	if err := all.Wait(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// listenPackets opens a datagram socket that tells which of the pod's addresses a datagram was sent to.
func listenPackets(ctx context.Context, port uint16) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}), err)
	}}
	conn, err := lc.ListenPacket(ctx, "udp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// answerPackets answers from the address that was called: the packet's information, as the kernel gave it, goes back.
func answerPackets(conn *net.UDPConn, name string) error {
	b, oob := make([]byte, 2048), make([]byte, 256)
	for {
		_, n, _, from, err := conn.ReadMsgUDPAddrPort(b, oob)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // an error that the network reported is not the end
		}
		conn.WriteMsgUDPAddrPort([]byte(answerTo(name, from)), oob[:n], from)
	}
}

// answerTo is what a pod answers.
func answerTo(name string, from netip.AddrPort) string {
	return fmt.Sprintf("%s %s\n", name, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
}

func answerConns(ctx context.Context, listener net.Listener, name string) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors, or a connection that ended at once
			continue
		}
		conns.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			answerConn(conn, answerTo(name, conn.RemoteAddr().(*net.TCPAddr).AddrPort()))
		})
	}
}

// answerConn answers each line. Who says nothing for a second or closes gets an answer as well.
func answerConn(conn net.Conn, answer string) {
	lines := bufio.NewReader(conn)
	conn.SetReadDeadline(time.Now().Add(time.Second))
	line, err := lines.ReadString('\n')
	conn.SetReadDeadline(time.Time{})
	if strings.Contains(line, " HTTP/1.") {
		answerHTTP(conn, lines, answer)
		return
	}
	for {
		if _, failed := conn.Write([]byte(answer)); failed != nil {
			return
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if _, err = lines.ReadString('\n'); err != nil {
			return
		}
	}
}

// answerHTTP reads the head of a request, since a connection with something unread ends by a reset.
func answerHTTP(conn net.Conn, lines *bufio.Reader, answer string) {
	for {
		line, err := lines.ReadString('\n')
		if err != nil || strings.TrimSpace(line) == "" {
			break
		}
	}
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		len(answer), answer)
}

// awaitServing waits until the pod's process listens at all its ports. It opens those for datagrams first.
func (n *Node) awaitServing(ctx context.Context, p podRecord) error {
	pod := n.pod(p)
	for _, port := range p.Serve {
		for {
			err := pod.Do(func() error {
				conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
				if err == nil {
					conn.Close()
				}
				return err
			})
			if err == nil {
				break
			}
			if !p.Holder.alive() {
				return fmt.Errorf("serve port %d: its process has ended: %s", port, n.lastLines("pods.log", 1))
			}
			if err := sleep(ctx, 10*time.Millisecond); err != nil {
				return fmt.Errorf("serve port %d: %w", port, err)
			}
		}
	}
	return nil
}
