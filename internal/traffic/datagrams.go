package traffic

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// datagramLen is a number and a time.
const datagramLen = 16

// datagrams are numbered datagrams one way.
type datagrams struct {
	conn   *net.UDPConn
	server *server
	echo   bool // the receiver answers each
	from   netip.Addr
	every  time.Duration

	sentAll  chan struct{}
	finished chan struct{} // the receiver has ended

	sent    uint64 // the sender's own until sentAll is closed
	sendErr error  // the first

	// The receiver's own until finished is closed.
	seen     []bool
	got      uint64
	twice    uint64
	foreign  uint64        // not ours, or from another address than the sender's
	maxDelay time.Duration // from sending to arrival at the receiver's socket

	heard   chan struct{} // the sender has read the last answer
	answers uint64        // the hearer's own until heard is closed
	hearErr error         // the first
}

// openDatagrams opens the sender's socket, to something that leads to the server or, without it, to the server.
func openDatagrams(from End, s *server, lead netip.AddrPort, every time.Duration) (*datagrams, error) {
	d := &datagrams{server: s, echo: lead.IsValid(), from: from.Addr, every: every,
		sentAll: make(chan struct{}), finished: make(chan struct{}), heard: make(chan struct{})}
	to := lead
	if !d.echo {
		to = s.udpAddr()
	}
	if from.Dial != nil {
		conn, err := from.Dial("udp", from.Addr, to, patience)
		if err != nil {
			return nil, err
		}
		d.conn = conn.(*net.UDPConn)
		return d, nil
	}
	err := from.Do(func() (err error) {
		d.conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Addr, 0)), net.UDPAddrFromAddrPort(to))
		return err
	})
	return d, err
}

// hear reads the answers until the socket is closed or told to wait no longer.
func (d *datagrams) hear() {
	defer close(d.heard)
	b := make([]byte, 64)
	for {
		n, err := d.conn.Read(b)
		switch {
		case err == nil && n == datagramLen:
			d.answers++
		case errors.Is(err, net.ErrClosed) || isTimeout(err):
			return
		case err != nil && d.hearErr == nil:
			d.hearErr = err
		}
		if err != nil {
			time.Sleep(time.Millisecond) // a socket that the kernel closed errs for ever
		}
	}
}

// send sends until told to stop. A pace that the machine did not keep is not caught up with.
func (d *datagrams) send(stop <-chan struct{}) {
	defer close(d.sentAll)
	tick := time.NewTicker(d.every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		var b [datagramLen]byte
		binary.BigEndian.PutUint64(b[:], d.sent)
		d.sent++
		binary.BigEndian.PutUint64(b[8:], uint64(time.Now().UnixNano()))
		if _, err := d.conn.Write(b[:]); err != nil && d.sendErr == nil {
			d.sendErr = err
		}
	}
}

func (d *datagrams) receive() {
	defer close(d.finished)
	b, oob := make([]byte, 64), make([]byte, 128)
	for {
		n, oobn, _, from, err := d.server.packets.ReadMsgUDPAddrPort(b, oob)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || isTimeout(err) {
				return
			}
			continue // an error that the network reported is not the end
		}
		if n != datagramLen || from.Addr().Unmap() != d.from {
			d.foreign++
			continue
		}
		d.note(binary.BigEndian.Uint64(b), time.Unix(0, int64(binary.BigEndian.Uint64(b[8:]))), arrival(oob[:oobn]))
		if d.echo {
			d.server.packets.WriteToUDPAddrPort(b[:n], from)
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func (d *datagrams) note(number uint64, sent, arrived time.Time) {
	for uint64(len(d.seen)) <= number {
		d.seen = append(d.seen, make([]bool, 4096)...)
	}
	if d.seen[number] {
		d.twice++
		return
	}
	d.seen[number] = true
	d.got++
	d.maxDelay = max(d.maxDelay, arrived.Sub(sent))
}

// arrival reads the kernel's time stamp (SO_TIMESTAMPNS, socket(7)).
func arrival(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err == nil {
		for _, m := range messages {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
				return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			}
		}
	}
	return time.Now()
}

// drain waits for what is on its way: what has not arrived a while after the last was sent is lost.
func (d *datagrams) drain() {
	<-d.sentAll
	d.server.packets.SetReadDeadline(time.Now().Add(time.Second))
	<-d.finished
	if d.echo {
		d.conn.SetReadDeadline(time.Now().Add(time.Second))
	} else {
		d.conn.SetReadDeadline(time.Now())
	}
	<-d.heard
}
