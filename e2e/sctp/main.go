// Command sctp is as much of SCTP as a suite about policies needs, for kernels that have none: a client that asks for an
// association (INIT), and a server that agrees (INIT ACK). What is on the wire are packets of SCTP, by raw sockets; there
// the handshake ends. In the policy suite's image it stands in for agnhost's connect and porter:
//
//	sctp connect --timeout=3s HOST:PORT    prints TIMEOUT, REFUSED or OTHER when there is no answer
//	sctp serve PORT…
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	err := errors.New("OTHER: want connect or serve")
	switch {
	case len(os.Args) > 2 && os.Args[1] == "connect":
		flags := flag.NewFlagSet("connect", flag.ExitOnError)
		timeout := flags.Duration("timeout", 3*time.Second, "how long to wait")
		flags.String("protocol", "sctp", "ignored")
		_ = flags.Parse(os.Args[2:]) // it exits
		err = connect(flags.Arg(0), *timeout)
	case len(os.Args) > 2 && os.Args[1] == "serve":
		err = serve(os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// connect asks every second until it is answered.
func connect(target string, timeout time.Duration) error {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	conn, err := net.Dial(network(to.Addr()), to.Addr().String())
	if err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	defer conn.Close()
	own, tag := uint16(32768+rand.N(28000)), rand.Uint32()|1
	deadline := time.Now().Add(timeout)
	for time.Now().Before(deadline) {
		if _, err := conn.Write(packet(own, to.Port(), 0, initChunk(chunkInit, tag))); err != nil {
			return refused(err)
		}
		next := time.Now().Add(time.Second)
		if next.After(deadline) {
			next = deadline
		}
		if err := awaitAnswer(conn, own, to.Port(), tag, next); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return errors.New("TIMEOUT")
}

// awaitAnswer reads until an INIT ACK to this client comes.
func awaitAnswer(conn net.Conn, own, port uint16, tag uint32, deadline time.Time) error {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("OTHER: %w", err)
	}
	buffer := make([]byte, 2048)
	for {
		n, err := conn.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err != nil {
			return refused(err)
		}
		h, ok := parse(withoutHeader(conn, buffer[:n]))
		if ok && h.kind == chunkInitAck && h.from == port && h.to == own && h.verification == tag {
			return nil
		}
	}
}

func refused(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return errors.New("REFUSED")
	}
	return fmt.Errorf("OTHER: %w", err)
}

// serve answers at its ports until it is killed. A family that the machine lacks is left out.
func serve(ports []string) error {
	mine := map[uint16]bool{}
	for _, text := range ports {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return fmt.Errorf("read port: %w", err)
		}
		mine[uint16(port)] = true
	}
	ended := make(chan error)
	for _, everywhere := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		conn, err := net.ListenPacket(network(everywhere), everywhere.String())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		go func() { ended <- answer(conn, mine) }()
	}
	return <-ended
}

func answer(conn net.PacketConn, mine map[uint16]bool) error {
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		h, ok := parse(buffer[:n])
		if !ok || h.kind != chunkInit || !mine[h.to] {
			continue
		}
		cookie := []byte{0, 7, 0, 8, 'e', '2', 'e', '!'}
		chunk := append(initChunk(chunkInitAck, rand.Uint32()|1), cookie...)
		binary.BigEndian.PutUint16(chunk[2:], uint16(len(chunk)))
		_, _ = conn.WriteTo(packet(h.to, h.from, h.initiate, chunk), from) // the client asks again
	}
}

func network(a netip.Addr) string {
	if a.Is4() {
		return "ip4:132"
	}
	return "ip6:132"
}

// withoutHeader drops the IP header that reading from a connected IPv4 socket leaves there.
func withoutHeader(conn net.Conn, b []byte) []byte {
	if conn.RemoteAddr().(*net.IPAddr).IP.To4() == nil || len(b) < 20 || b[0]>>4 != 4 || b[9] != 132 {
		return b
	}
	return b[min(len(b), int(b[0]&0xf)*4):]
}

const (
	chunkInit    = 1
	chunkInitAck = 2
)

// header is what we read of a packet: its ports, the tag that it names its receiver by, and of its first chunk the kind and,
// in the two of the handshake, the sender's own tag.
type header struct {
	from, to               uint16
	verification, initiate uint32
	kind                   byte
}

func parse(b []byte) (h header, ok bool) {
	if len(b) < 12+20 {
		return h, false
	}
	return header{
		from: binary.BigEndian.Uint16(b), to: binary.BigEndian.Uint16(b[2:]), verification: binary.BigEndian.Uint32(b[4:]),
		kind: b[12], initiate: binary.BigEndian.Uint32(b[16:]),
	}, true
}

// initChunk is an INIT or INIT ACK without parameters: one stream each way.
func initChunk(kind byte, tag uint32) []byte {
	chunk := []byte{kind, 0, 0, 20}
	chunk = binary.BigEndian.AppendUint32(chunk, tag)
	chunk = binary.BigEndian.AppendUint32(chunk, 1<<16) // receiver's window
	chunk = append(chunk, 0, 1, 0, 1)
	return binary.BigEndian.AppendUint32(chunk, tag) // first number of data
}

// packet puts the common header before a chunk. Its checksum is the one number that is not in network order.
func packet(from, to uint16, verification uint32, chunk []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, verification)
	b = append(append(b, 0, 0, 0, 0), chunk...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}
