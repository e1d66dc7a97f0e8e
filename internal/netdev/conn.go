package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// maxBatch bounds the answers that wait in a socket's receive buffer while the kernel works through a batch.
	maxBatch   = 64
	receiveBuf = 1 << 20 // bytes; an answer counts some 800 of them (skb truesize)

	readBuf = 64 << 10 // the kernel fills at most 32 KiB a read (netlink_recvmsg)

	timeoutSeconds = 10 // no answer of rtnetlink's takes long; without a bound, a lost one would stop the agent

	dumpAttempts = 20
)

// conn is one netlink socket, of rtnetlink where nothing else is said. It answers in the namespace where it was opened, wherever its user is.
type conn struct {
	fd     int
	port   uint32 // the socket's address: nlmsg_pid
	seq    uint32
	buf    []byte
	out    []byte
	broken bool // answers may be missing or left over
}

// reply is what the kernel answered to one message.
type reply struct {
	data [][]byte
	err  error
}

// dial opens an rtnetlink socket in the calling thread's network namespace.
func dial() (*conn, error) { return dialTo(unix.NETLINK_ROUTE) }

func dialTo(protocol int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &conn{fd: fd}
	if err := c.prepare(); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return c, nil
}

func (c *conn) prepare() error {
	// Strict checking makes the kernel honour the filters in dump requests, and refuse what it does not know.
	// CAP_ACK keeps the request out of error answers.
	for _, opt := range []int{unix.NETLINK_GET_STRICT_CHK, unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, opt, 1); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuf); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: timeoutSeconds}); err != nil {
		return err
	}
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := unix.Getsockname(c.fd)
	if sa, ok := name.(*unix.SockaddrNetlink); ok {
		c.port = sa.Pid
	}
	return err
}

func (c *conn) close() { unix.Close(c.fd) }

// batch sends messages, up to maxBatch in one system call, and collects one reply each. The kernel works through
// them in order and does not stop at one that fails.
func (c *conn) batch(messages []*message) ([]reply, error) {
	replies := make([]reply, len(messages))
	for start := 0; start < len(messages); start += maxBatch {
		end := min(start+maxBatch, len(messages))
		if err := c.exchange(messages[start:end], replies[start:end]); err != nil {
			c.broken = true
			return nil, err
		}
	}
	return replies, nil
}

func (c *conn) exchange(messages []*message, replies []reply) error {
	first := c.seq + 1
	c.out = c.out[:0]
	for _, m := range messages {
		c.seq++
		c.out = m.appendTo(c.out, unix.NLM_F_ACK, c.seq)
	}
	if err := c.send(); err != nil {
		return err
	}
	for missing := len(messages); missing > 0; {
		err := c.receive(func(h header, body []byte) {
			i := h.seq - first // unsigned: an answer to something older is far out of range
			if int64(i) >= int64(len(replies)) {
				return
			}
			if h.typ == unix.NLMSG_ERROR { // also the acknowledgement, with error 0
				replies[i].err = parseError(h, body)
				missing--
				return
			}
			replies[i].data = append(replies[i].data, append([]byte(nil), body...))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dump sends a dump request and calls each for every message of the answer, whose bytes are only lent. It starts
// again, after begin, when the kernel says that what it listed changed meanwhile (NLM_F_DUMP_INTR).
func (c *conn) dump(m *message, begin func(), each func(b []byte)) error {
	for range dumpAttempts {
		begin()
		interrupted, err := c.dumpOnce(m, each)
		if err != nil {
			return err
		}
		if !interrupted {
			return nil
		}
	}
	return fmt.Errorf("list: it changed each of %d times while it was listed", dumpAttempts)
}

func (c *conn) dumpOnce(m *message, each func(b []byte)) (interrupted bool, err error) {
	c.seq++
	c.out = m.appendTo(c.out[:0], unix.NLM_F_DUMP, c.seq)
	if err := c.send(); err != nil {
		c.broken = true
		return false, err
	}
	var answer error
	for done := false; !done; {
		err := c.receive(func(h header, body []byte) {
			if h.seq != c.seq || done {
				return
			}
			interrupted = interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
			switch h.typ {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				done, answer = true, parseError(h, body)
			default:
				each(body)
			}
		})
		if err != nil {
			c.broken = true
			return false, err
		}
	}
	return interrupted, answer
}

func (c *conn) send() error {
	for {
		err := unix.Sendto(c.fd, c.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == unix.EINTR {
			continue
		}
		return os.NewSyscallError("send netlink request", err)
	}
}

func (c *conn) receive(each func(h header, body []byte)) error {
	if c.buf == nil {
		c.buf = make([]byte, readBuf)
	}
	n, from, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC)
	switch {
	case err == unix.EINTR:
		return nil
	case err != nil:
		return os.NewSyscallError("receive netlink answer", err)
	case n > len(c.buf):
		return fmt.Errorf("receive netlink answer: %d bytes are too many", n)
	}
	if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
		return nil // not the kernel
	}
	return split(c.buf[:n], each)
}

// parseError reads an acknowledgement or the end of a dump: an errno, and what the kernel says in words.
func parseError(h header, body []byte) error {
	if len(body) < 4 {
		return nil // an end without status
	}
	code := -int32(binary.NativeEndian.Uint32(body))
	if code == 0 {
		return nil
	}
	err := error(unix.Errno(code))
	rest := body[4:]
	if h.typ == unix.NLMSG_ERROR && len(rest) >= unix.SizeofNlMsghdr {
		skip := unix.SizeofNlMsghdr
		if h.flags&unix.NLM_F_CAPPED == 0 {
			skip = align(int(binary.NativeEndian.Uint32(rest)))
		}
		rest = rest[min(skip, len(rest)):]
	}
	if h.flags&unix.NLM_F_ACK_TLVS == 0 {
		return err
	}
	for typ, value := range attributes(rest) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w (%s)", err, text(value))
		}
	}
	return err
}

// gone says whether an error means that what the request was about does not exist.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENXIO)
}
