package load

import (
	"errors"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

// bye, instead of a request, ends a server of many connections.
const bye = 'q'

// accepted waits for the one connection of a server.
func accepted(j job) (socket, error) {
	l, err := listen(j.server)
	if err != nil {
		return -1, err
	}
	announce()
	c, err := l.accept()
	if err != nil {
		return -1, err
	}
	return c, c.set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

func serveRR(j job) (reply, error) {
	c, err := accepted(j)
	if err != nil {
		return reply{}, err
	}
	m, err := begin()
	if err != nil {
		return reply{}, err
	}
	b := make([]byte, 1)
	for {
		if _, err := c.receive(b); errors.Is(err, io.EOF) {
			return m.end(reply{})
		} else if err != nil {
			return reply{}, err
		}
		if _, err := c.send(b); err != nil {
			return reply{}, err
		}
	}
}

func requestRR(j job) (reply, error) {
	to := j.via.or(j.server)(0)
	c, err := dial(to, sockaddr(to))
	if err != nil {
		return reply{}, err
	}
	defer c.close()
	b := make([]byte, 1)
	return j.measure(64, func() error {
		if _, err := c.send(b); err != nil {
			return err
		}
		_, err := c.receive(b)
		return err
	})
}

func serveCRR(j job) (reply, error) {
	l, err := listen(j.server)
	if err != nil {
		return reply{}, err
	}
	announce()
	m, err := begin()
	if err != nil {
		return reply{}, err
	}
	b := make([]byte, 1)
	for b[0] != bye {
		if err := answerOne(l, b); err != nil {
			return reply{}, err
		}
	}
	return m.end(reply{})
}

func answerOne(l socket, b []byte) error {
	c, err := l.accept()
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.receive(b); err != nil {
		return err
	}
	_, err = c.send(b)
	return err
}

// requestCRR leaves it to the server to close first: the ports in TIME_WAIT are then the server's, and the client
// does not run out of its own.
func requestCRR(j job) (reply, error) {
	next, count := j.via.or(j.server), 0
	b := make([]byte, 1)
	r, err := j.measure(8, func() error { count++; return askOne(next(count), b) })
	if err != nil {
		return r, err
	}
	b[0] = bye
	return r, askOne(j.server, b)
}

func askOne(to netip.AddrPort, b []byte) error {
	c, err := dial(to, sockaddr(to))
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := c.send(b); err != nil {
		return err
	}
	if _, err := c.receive(b); err != nil {
		return err
	}
	end := make([]byte, 1)
	if _, err := c.receive(end); !errors.Is(err, io.EOF) {
		return errors.Join(errors.New("the server did not close"), err)
	}
	return nil
}

// A stream moves a chunk in one call; after some growth, TCP's window is what it is going to be.
const (
	chunk  = 128 << 10
	growth = 4 << 20
)

func serveStream(j job) (reply, error) {
	c, err := accepted(j)
	if err != nil {
		return reply{}, err
	}
	m, err := begin()
	if err != nil {
		return reply{}, err
	}
	b := make([]byte, chunk)
	var warm, bytes float64
	for {
		n, err := c.receive(b)
		if errors.Is(err, io.EOF) {
			return m.end(reply{Bytes: bytes, Work: warm + bytes})
		}
		if err != nil {
			return reply{}, err
		}
		if warm < growth {
			if warm += float64(n); warm >= growth {
				m.lap()
			}
			continue
		}
		bytes += float64(n)
	}
}

func requestStream(j job) (reply, error) {
	c, err := dial(j.server, sockaddr(j.server))
	if err != nil {
		return reply{}, err
	}
	defer c.close()
	b := make([]byte, chunk)
	return j.measure(1, func() error {
		for sent := 0; sent < len(b); {
			n, err := c.send(b[sent:])
			if err != nil {
				return err
			}
			sent += n
		}
		return nil
	})
}
