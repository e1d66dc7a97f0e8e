package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const maxConns = 64 // at once; more wait in the kernel's queue

// Serve answers each request with handle until ctx is done, then returns nil once all answers are given. It closes l.
// handle runs on several goroutines at once; its ctx ends before the client stops waiting. netns is nil where the
// request came without one, never for Add and Check, and is closed when handle returns. Requests have been
// validated; they come from root or from the agent's own user.
func Serve(ctx context.Context, l *net.UnixListener, handle func(context.Context, Request, *os.File) Response) error {
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var open sync.WaitGroup
	defer open.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.AcceptUnix()
		if err == nil {
			open.Go(func() {
				defer func() { <-slots }()
				answer(ctx, conn, handle)
			})
			continue
		}
		<-slots
		if ctx.Err() != nil {
			return nil
		}
		if !passing(err) {
			return fmt.Errorf("accept agent's clients: %w", err)
		}
		time.Sleep(10 * time.Millisecond) // no descriptor or memory free: connections wait meanwhile
	}
}

func passing(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// answer serves one connection. A client that cannot be answered has gone, and asks again if it still cares.
func answer(ctx context.Context, conn *net.UnixConn, handle func(context.Context, Request, *os.File) Response) {
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(readTime))
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	req, netns, refusal := accept(conn)
	if refusal != nil && ctx.Err() != nil {
		refusal = &Error{Code: CodeTryAgain, Msg: "the agent is stopping"}
	}
	resp := Response{Error: refusal}
	if refusal == nil {
		ctx, cancel := context.WithTimeout(context.WithValue(ctx, clientKey{}, conn), handleTime)
		resp = handle(ctx, req, netns)
		cancel()
	}
	if netns != nil {
		netns.Close()
	}
	body, err := json.Marshal(resp)
	if err != nil {
		body, _ = json.Marshal(Response{Error: &Error{Code: CodeInternal, Msg: "encode response: " + err.Error()}})
	}
	conn.SetWriteDeadline(time.Now().Add(writeTime))
	conn.Write(body)
}

// clientKey finds in a request's context the connection that it came by.
type clientKey struct{}

// Gone says whether the client of the request that ctx belongs to has closed its connection: killed, or out of
// patience. Who asked for it may since have asked for the opposite, and have got it, for requests that wait keep no
// order. So a request must not be begun without asking this.
func Gone(ctx context.Context) bool {
	conn, ok := ctx.Value(clientKey{}).(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	var sendErr error
	// To send nothing does nothing, but fails when the other side is closed (unix_stream_sendmsg). Reading would not
	// tell: a client that waits has closed its half of the connection, too.
	err = raw.Control(func(fd uintptr) {
		_, sendErr = syscall.SendmsgN(int(fd), nil, nil, nil, syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT)
	})
	return err != nil || errors.Is(sendErr, syscall.EPIPE)
}

// accept reads one request and says why it is refused. The file is the caller's to close if there is no refusal.
func accept(conn *net.UnixConn) (Request, *os.File, *Error) {
	if err := checkPeer(conn); err != nil {
		return Request{}, nil, &Error{Code: CodeInternal, Msg: err.Error()}
	}
	body, files, err := receive(conn)
	code := uint(CodeIO)
	var req Request
	if err == nil {
		code = CodeInvalidConfig
		req, err = decode(body)
	}
	if err == nil {
		code = CodeInvalidNetns
		err = checkFiles(req.Verb, files)
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return Request{}, nil, &Error{Code: code, Msg: err.Error()}
	}
	if len(files) == 0 {
		return req, nil, nil
	}
	return req, files[0], nil
}

func checkFiles(verb Verb, files []*os.File) error {
	if len(files) == 0 && (verb == Add || verb == Check) {
		return fmt.Errorf("%s without a network namespace", verb)
	}
	for _, f := range files {
		if !isNetns(f) {
			return fmt.Errorf("descriptor that came with %s: %w", verb, ErrNotNetns)
		}
	}
	return nil
}

// checkPeer looks at who connected. The socket's mode keeps others out; this holds when somebody has changed that.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("ask who the client is: %w", err)
	}
	var cred *syscall.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return fmt.Errorf("ask who the client is: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("ask who the client is: %w", credErr)
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("user %d may not ask the agent", cred.Uid)
	}
	return nil
}
