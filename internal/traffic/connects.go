package traffic

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// connects opens one new connection after the other, each with one question and one answer.
type connects struct {
	from  End
	to    netip.AddrPort
	every time.Duration

	// The runner's own until finished is closed.
	made, failed, reset, synAgain uint64
	slowest                       time.Duration
	err                           error // the first failure's

	finished chan struct{} // the runner has ended
}

// run opens connections at the pace until told to stop, on one thread that stays in the namespace.
func (c *connects) run(stop <-chan struct{}) {
	defer close(c.finished)
	err := c.from.Do(func() error {
		tick := time.NewTicker(c.every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return nil
			case <-tick.C:
			}
			c.count(c.one())
		}
	})
	if err != nil {
		c.count(err)
	}
}

func (c *connects) count(err error) {
	c.made++
	if err == nil {
		return
	}
	c.failed++
	if isReset(err) {
		c.reset++
	}
	if c.err == nil {
		c.err = err
	}
}

// one opens a connection in the calling thread's namespace, asks, reads the answer, and closes after it: nothing
// unread is left that would make the kernel reset it.
func (c *connects) one() error {
	began := time.Now()
	conn, err := dialHere(c.from, c.to)
	if err != nil {
		return err
	}
	defer conn.Close()
	c.slowest = max(c.slowest, time.Since(began))
	if again(conn) > 0 {
		c.synAgain++
	}
	conn.SetDeadline(time.Now().Add(patience))
	question := []byte(fmt.Sprintf("connection %12d", c.made))
	answer := make([]byte, len(question))
	if _, err := conn.Write(question); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if string(answer) != string(question) {
		return errors.New("the answer is another connection's")
	}
	return nil
}
