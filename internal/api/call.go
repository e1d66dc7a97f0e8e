package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// ErrNoAgent is the error of Call when nobody listens at the socket: nothing was asked and nothing has happened. After
// any other error that is not an *Error of the agent's, the agent may have done what it was asked.
var ErrNoAgent = errors.New("no agent listens")

// Call asks the agent at socket and returns its answer. netns goes with the request; nil: none does. An Error in the
// response is also returned as the error. ctx must have a deadline or be cancelled by someone.
func Call(ctx context.Context, socket string, req Request, netns *os.File) (Response, error) {
	if err := req.Validate(); err != nil {
		return Response{}, fmt.Errorf("ask agent: %w", err)
	}
	body, err := json.Marshal(req)
	if err != nil {
		return Response{}, fmt.Errorf("ask agent: %w", err)
	}
	if len(body) > maxRequest {
		return Response{}, fmt.Errorf("ask agent: request of %d bytes, at most %d go", len(body), maxRequest)
	}
	conn, err := dial(ctx, socket)
	if err != nil {
		return Response{}, fmt.Errorf("ask agent: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	// An agent that has read enough to refuse answers and closes, so the answer counts even when sending failed.
	sendErr := send(conn, body, netns)
	var resp Response
	if err := json.NewDecoder(io.LimitReader(conn, maxResponse)).Decode(&resp); err != nil {
		return Response{}, fmt.Errorf("ask agent to %s: %w", req.Verb, errors.Join(ctx.Err(), sendErr, err))
	}
	if resp.Error != nil {
		return resp, resp.Error
	}
	return resp, nil
}

// dial connects, and tries again while the agent has more connections waiting than the kernel keeps.
func dial(ctx context.Context, socket string) (*net.UnixConn, error) {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		switch {
		case err == nil:
			return conn.(*net.UnixConn), nil
		case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
		case !errors.Is(err, syscall.EAGAIN):
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
