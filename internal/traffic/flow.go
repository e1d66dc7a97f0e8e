package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// recordLen is the size of a record of a long-lived connection.
const recordLen = 1024

// flow is a long-lived connection: numbered records go out at a steady pace and come back echoed.
type flow struct {
	conn  *net.TCPConn
	every time.Duration

	sent     atomic.Uint64
	finished chan struct{} // the reader has ended
	writeErr atomic.Pointer[error]

	// The reader's own until finished is closed.
	echoed  uint64
	err     error
	maxGap  time.Duration // between two echoes
	maxEcho time.Duration // from writing a record to reading its echo
}

// openFlow connects and has one record echoed.
func openFlow(from End, to netip.AddrPort, every time.Duration) (*flow, error) {
	conn, err := dial(from, to)
	if err != nil {
		return nil, err
	}
	f := &flow{conn: conn, every: every, finished: make(chan struct{})}
	conn.SetDeadline(time.Now().Add(patience))
	defer conn.SetDeadline(time.Time{})
	err = f.writeRecord()
	if err == nil {
		err = f.readRecord(make([]byte, recordLen))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("echo a first record: %w", err)
	}
	return f, nil
}

// dial opens a connection from an end, from inside its namespace.
func dial(from End, to netip.AddrPort) (conn *net.TCPConn, err error) {
	err = from.Do(func() (err error) {
		conn, err = dialHere(from, to)
		return err
	})
	return conn, err
}

// dialHere opens a connection in the calling thread's namespace. The receiver must be seen to answer from the address
// that was called, which TCP sees to.
func dialHere(from End, to netip.AddrPort) (*net.TCPConn, error) {
	if from.Dial != nil {
		conn, err := from.Dial("tcp", from.Addr, to, patience)
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.Addr, 0)), Timeout: patience}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.Dial("tcp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// write sends a record each turn until told to stop, then says that no more will come.
func (f *flow) write(stop <-chan struct{}) {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			f.conn.CloseWrite()
			return
		case <-f.finished:
			return
		case <-tick.C:
		}
		if err := f.writeRecord(); err != nil {
			f.writeErr.Store(&err)
			f.conn.CloseRead()
			return
		}
	}
}

// A record is its number, the time it was written, and a pattern that depends on the number.
func (f *flow) writeRecord() error {
	var record [recordLen]byte
	n := f.sent.Load()
	binary.BigEndian.PutUint64(record[:], n)
	binary.BigEndian.PutUint64(record[8:], uint64(time.Now().UnixNano()))
	fill(record[16:], n)
	f.sent.Add(1) // before: the echo must not overtake it
	_, err := f.conn.Write(record[:])
	return err
}

func fill(b []byte, n uint64) {
	for i := range b {
		b[i] = byte(n) + byte(i)
	}
}

// read reads the echoes to the end of the connection.
func (f *flow) read() {
	defer close(f.finished)
	record := make([]byte, recordLen)
	for last := time.Now(); ; {
		err := f.readRecord(record)
		if errors.Is(err, io.EOF) && f.echoed == f.sent.Load() {
			return
		}
		if err != nil {
			f.err = err
			if w := f.writeErr.Load(); w != nil {
				f.err = *w
			}
			return
		}
		now := time.Now()
		f.maxGap = max(f.maxGap, now.Sub(last))
		f.maxEcho = max(f.maxEcho, now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(record[8:])))))
		last = now
	}
}

func (f *flow) readRecord(record []byte) error {
	if _, err := io.ReadFull(f.conn, record); err != nil {
		return err
	}
	n := binary.BigEndian.Uint64(record)
	if n != f.echoed {
		return fmt.Errorf("record %d came as number %d", f.echoed, n)
	}
	for i, b := range record[16:] {
		if b != byte(n)+byte(i) {
			return fmt.Errorf("record %d was changed at byte %d", n, 16+i)
		}
	}
	f.echoed++
	return nil
}

// wait returns when all echoes are back, or when they have been waited for long enough.
func (f *flow) wait() {
	f.conn.SetReadDeadline(time.Now().Add(patience))
	<-f.finished
}

// again is how many segments the connection sent more than once.
func again(conn *net.TCPConn) uint64 {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	var count uint64
	raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			count = uint64(info.Total_retrans)
		}
	})
	return count
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
