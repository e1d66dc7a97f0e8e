package probe

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// What a packet that got through brings back.
const (
	answered = "answered"
	refused  = "refused by the receiver"
)

// tryReachTCP opens a connection. One that is refused got through, too.
func (d dial) tryReachTCP() (result, error) {
	dialer := net.Dialer{Timeout: probeTimeout}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.Dial("tcp", d.target())
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return result{Reached: refused}, nil
	case err != nil:
		return result{}, err
	}
	return result{Reached: answered}, conn.Close()
}

// tryReachUDP sends small datagrams and waits for one to come back, whatever it says, or for a refusal.
func (d dial) tryReachUDP() (result, error) {
	conn, _, err := d.connect(false)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	for range 2 {
		conn.SetDeadline(time.Now().Add(probeTimeout / 2))
		if _, err = conn.Write(make([]byte, 32)); err == nil {
			_, err = conn.Read(make([]byte, 2048))
		}
		switch {
		case err == nil:
			return result{Reached: answered}, nil
		case errors.Is(err, syscall.ECONNREFUSED):
			return result{Reached: refused}, nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return result{}, err
		}
	}
	return result{}, err
}
