package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/polder-net/polder/internal/cluster"
)

// readyTimeout is how long a prober may take to start and to listen everywhere.
const readyTimeout = 30 * time.Second

// silence is how long a prober that has probes under way may say nothing: none of them takes so long.
const silence = 15 * time.Second

// session is the coordinator's side of one prober.
type session struct {
	node    cluster.Node
	conn    io.ReadWriteCloser
	encoder *json.Encoder
	decoder *json.Decoder
	failure error // why there is no prober
	ends    []end
}

// end is an endpoint as the coordinator knows it.
type end struct {
	endpoint
	session *session
	id      int    // its place in its prober's list; 0 is the node itself
	name    string // for people
}

func (e *end) isNode() bool { return e.id == 0 }

// who is how the endpoint's listeners call themselves.
func (e *end) who() string { return fmt.Sprintf("%s/%d", e.session.node.Name, e.id) }

// connect starts the probers of all targets, and returns once all are ready or have failed.
func connect(ctx context.Context, targets []Target) []*session {
	sessions := make([]*session, len(targets))
	var starting sync.WaitGroup
	for i, t := range targets {
		s := &session{node: t.Node}
		sessions[i] = s
		starting.Go(func() { s.failure = s.start(ctx, t) })
	}
	starting.Wait()
	return sessions
}

func (s *session) start(ctx context.Context, t Target) error {
	conn, err := t.Connect(ctx)
	if err != nil {
		return fmt.Errorf("start prober: %w", err)
	}
	s.conn, s.encoder, s.decoder = conn, json.NewEncoder(conn), json.NewDecoder(conn)
	hello := &hello{Node: t.Node.Name}
	for _, ipv4 := range []bool{true, false} {
		if a := t.Node.Address(ipv4); a.IsValid() {
			hello.Addresses = append(hello.Addresses, a)
		}
	}
	// A prober that hangs is cut off: reads then fail.
	watch := time.AfterFunc(readyTimeout, func() { conn.Close() })
	defer watch.Stop()
	if err := s.encoder.Encode(toProber{Hello: hello}); err != nil {
		return fmt.Errorf("greet prober: %w", err)
	}
	var m fromProber
	switch err := s.decoder.Decode(&m); {
	case err != nil:
		return fmt.Errorf("wait for prober: %w", err)
	case m.Ready == nil:
		return errors.New("wait for prober: it talks of something else")
	case m.Ready.Error != "":
		return errors.New(m.Ready.Error)
	}
	for i, e := range m.Ready.Endpoints {
		s.ends = append(s.ends, end{endpoint: e, session: s, id: i})
	}
	return nil
}

// run has the prober carry out dials, and hands each result to got. Those that have none when the prober ends get its
// end as their error.
func (s *session) run(dials []dial, got func(result)) {
	pending := make(map[int]bool, len(dials))
	for _, d := range dials {
		pending[d.ID] = true
	}
	watch := time.AfterFunc(silence, func() { s.conn.Close() })
	defer watch.Stop()
	var writing sync.WaitGroup
	writing.Go(func() {
		for _, d := range dials {
			if s.encoder.Encode(toProber{Dial: &d}) != nil {
				return // the reader learns why
			}
		}
	})
	defer writing.Wait()
	for len(pending) > 0 {
		var m fromProber
		err := s.decoder.Decode(&m)
		if err == nil && (m.Result == nil || !pending[m.Result.ID]) {
			err = errors.New("it talks of something else")
		}
		if err != nil {
			s.conn.Close()
			for id := range pending {
				got(result{ID: id, Error: fmt.Sprintf("the prober of %s ended: %v", s.node.Name, err)})
			}
			return
		}
		watch.Reset(silence)
		delete(pending, m.Result.ID)
		got(*m.Result)
	}
}

func (s *session) close() {
	if s.conn != nil {
		s.conn.Close()
	}
}
