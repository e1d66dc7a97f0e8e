package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

const (
	maxRequest  = 1 << 20
	maxResponse = 64 << 20 // a report of a large cluster
	maxFiles    = 253      // SCM_MAX_FD: so many are received, to close them; one is right
)

// How long each step may take. The agent gives up before its client does, so that a client which has gone never
// finds its request carried out after the one by which it cleans up.
const (
	// CallTime is how long a client should wait for an answer.
	CallTime = 30 * time.Second

	readTime   = 5 * time.Second
	handleTime = 25 * time.Second
	writeTime  = 5 * time.Second
)

// send writes a request with the descriptor on its first byte, and says that no more comes.
func send(conn *net.UnixConn, body []byte, netns *os.File) error {
	var rights []byte
	if netns != nil {
		rights = syscall.UnixRights(int(netns.Fd()))
	}
	n, _, err := conn.WriteMsgUnix(body, rights, nil)
	runtime.KeepAlive(netns)
	if err != nil {
		return err
	}
	if _, err := conn.Write(body[n:]); err != nil {
		return err
	}
	return conn.CloseWrite()
}

// receive reads what send wrote. The files are the caller's to close, also when there is an error.
func receive(conn *net.UnixConn) (body []byte, files []*os.File, err error) {
	buf := make([]byte, 16<<10)
	oob := make([]byte, syscall.CmsgSpace(maxFiles*4))
	for {
		n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
		if errors.Is(err, io.EOF) {
			return body, files, nil
		}
		if err != nil {
			return nil, files, fmt.Errorf("read request: %w", err)
		}
		files = append(files, filesOf(oob[:oobn])...)
		body = append(body, buf[:n]...)
		switch {
		case flags&syscall.MSG_CTRUNC != 0 || len(files) > 1:
			return nil, files, errors.New("read request: more than one descriptor")
		case len(body) > maxRequest:
			return nil, files, fmt.Errorf("read request: more than %d bytes", maxRequest)
		}
	}
}

// filesOf takes over the descriptors of a control message. What else may be in one carries none.
func filesOf(oob []byte) []*os.File {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received netns"))
		}
	}
	return files
}

// decode reads a request strictly: a field that this version does not know may be one that the client counts on.
func decode(body []byte) (Request, error) {
	var req Request
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return Request{}, fmt.Errorf("decode request: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Request{}, errors.New("decode request: something follows it")
	}
	if err := req.Validate(); err != nil {
		return Request{}, fmt.Errorf("decode request: %w", err)
	}
	return req, nil
}
