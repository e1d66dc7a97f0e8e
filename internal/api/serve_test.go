package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// serveForTest runs a server until the test ends, which checks that it ends well.
func serveForTest(t *testing.T, handle func(context.Context, Request, *os.File) Response) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "polder", "agent.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server ended: %v", err)
		}
	})
	return socket
}

func echo(_ context.Context, req Request, _ *os.File) Response {
	return Response{Host: &Interface{Name: req.ContainerID}}
}

func background(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func openOwn(t *testing.T) *os.File {
	t.Helper()
	f, err := OpenNetns("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var own = Attachment{"polder", "c1", "eth0"} // read only

func TestNetnsArrivesAsTheSameNamespace(t *testing.T) {
	var got, want syscall.Stat_t
	socket := serveForTest(t, func(_ context.Context, req Request, netns *os.File) Response {
		if err := syscall.Fstat(int(netns.Fd()), &got); err != nil {
			return Response{Error: &Error{Code: CodeIO, Msg: err.Error()}}
		}
		return echo(context.Background(), req, nil)
	})
	netns := openOwn(t)
	if err := syscall.Fstat(int(netns.Fd()), &want); err != nil {
		t.Fatal(err)
	}
	resp, err := Call(background(t), socket, Request{Verb: Add, Attachment: own}, netns)
	if err != nil || resp.Host == nil || resp.Host.Name != "c1" {
		t.Fatalf("%+v %v", resp, err)
	}
	if got.Ino != want.Ino || got.Dev != want.Dev {
		t.Errorf("sent inode %d, received %d", want.Ino, got.Ino)
	}
}

func TestErrorOfTheAgentIsTheErrorOfTheCall(t *testing.T) {
	socket := serveForTest(t, func(context.Context, Request, *os.File) Response {
		return Response{Error: &Error{Code: CodeTryAgain, Msg: "no address is free", Details: "10.0.0.0/30"}}
	})
	_, err := Call(background(t), socket, Request{Verb: Status}, nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Code != CodeTryAgain || refused.Details != "10.0.0.0/30" || errors.Is(err, ErrNoAgent) {
		t.Errorf("%#v", err)
	}
}

func TestNobodyListeningIsToldFromOtherErrors(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, socket := range []string{filepath.Join(dir, "none.sock"), filepath.Join(dir, "no/folder.sock"), stale} {
		if _, err := Call(background(t), socket, Request{Verb: Status}, nil); !errors.Is(err, ErrNoAgent) {
			t.Errorf("%s: %v", socket, err)
		}
	}
	silent, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "silent.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Call(ctx, silent.Addr().String(), Request{Verb: Status}, nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNoAgent) {
		t.Errorf("silent agent: %v", err)
	}
	// One that dies while it works: something may have been done.
	go func() {
		for {
			conn, err := silent.AcceptUnix()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	if _, err := Call(background(t), silent.Addr().String(), Request{Verb: Status}, nil); err == nil || errors.Is(err, ErrNoAgent) {
		t.Errorf("dying agent: %v", err)
	}
}

func TestWrongRequestIsNotEvenSent(t *testing.T) {
	_, err := Call(background(t), "/nowhere", Request{Verb: Del, Attachment: Attachment{"n", "../c", "eth0"}}, nil)
	if err == nil || errors.Is(err, ErrNoAgent) {
		t.Error(err)
	}
}

// raw sends bytes and descriptors as no Call would and returns what comes back.
func raw(t *testing.T, socket, body string, fds ...int) (Response, error) {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix([]byte(body), rights, nil)
	if err == nil {
		_, err = conn.Write([]byte(body)[n:])
	}
	if err == nil {
		conn.CloseWrite()
	}
	var resp Response
	return resp, json.NewDecoder(conn).Decode(&resp)
}

func TestMalformedRequestsGetAnErrorAndLeakNothing(t *testing.T) {
	var handled atomic.Int32
	socket := serveForTest(t, func(context.Context, Request, *os.File) Response {
		handled.Add(1)
		return Response{}
	})
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	netns, file := int(openOwn(t).Fd()), int(null.Fd())
	mount, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer mount.Close()
	many := make([]int, 253)
	for i := range many {
		many[i] = netns
	}
	add := `{"verb":"add","network":"n","containerID":"c","ifname":"eth0"}`
	before := descriptors()
	for range 20 {
		for name, test := range map[string]struct {
			body string
			fds  []int
			code uint
		}{
			"not JSON":          {"nonsense", nil, CodeInvalidConfig},
			"not JSON, with fd": {"nonsense", []int{netns}, CodeInvalidConfig},
			"a climbing ID":     {`{"verb":"del","network":"n","containerID":"../c","ifname":"eth0"}`, nil, CodeInvalidConfig},
			"add without netns": {add, nil, CodeInvalidNetns},
			"add with a file":   {add, []int{file}, CodeInvalidNetns},
			"add with mount ns": {add, []int{int(mount.Fd())}, CodeInvalidNetns},
			"two descriptors":   {add, []int{netns, netns}, CodeIO},
			"many descriptors":  {add, many, CodeIO},
			"too large":         {strings.Repeat(" ", maxRequest+1), []int{netns}, CodeIO},
		} {
			if resp, err := raw(t, socket, test.body, test.fds...); err != nil || resp.Error == nil || resp.Error.Code != test.code {
				t.Fatalf("%s: %+v %v, want code %d", name, resp.Error, err, test.code)
			}
		}
	}
	if handled.Load() != 0 {
		t.Errorf("%d malformed requests were carried out", handled.Load())
	}
	settle(t, before)
}

// settle waits until no more descriptors are open than before.
func settle(t *testing.T, before int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); descriptors() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors are open, %d were", descriptors(), before)
		}
	}
}

func TestClientThatGoesAwayLeaksNothing(t *testing.T) {
	release := make(chan struct{})
	socket := serveForTest(t, func(ctx context.Context, req Request, _ *os.File) Response {
		<-release
		return Response{}
	})
	netns := openOwn(t)
	before := descriptors()
	for range 10 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if _, err := Call(ctx, socket, Request{Verb: Add, Attachment: own}, netns); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	for range 10 { // and those who leave before they have said all
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
		if err != nil {
			t.Fatal(err)
		}
		conn.WriteMsgUnix([]byte(`{"verb":`), syscall.UnixRights(int(netns.Fd())), nil)
		conn.Close()
	}
	close(release)
	settle(t, before)
}

func TestARequestKnowsWhenItsClientHasGone(t *testing.T) {
	asked, left := make(chan struct{}), make(chan struct{})
	gone := make(chan [2]bool, 1)
	socket := serveForTest(t, func(ctx context.Context, _ Request, _ *os.File) Response {
		before := Gone(ctx) // it waits for the answer
		close(asked)
		<-left
		gone <- [2]bool{before, Gone(ctx)}
		return Response{}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := Call(ctx, socket, Request{Verb: Del, Attachment: own}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(left)
	if got := <-gone; got != [2]bool{false, true} {
		t.Errorf("gone before and after: %v", got)
	}
	if Gone(t.Context()) {
		t.Error("a context of nobody's has a client that is gone")
	}
}

func TestAtMostSoManyAreServedAtOnceAndAllInTheEnd(t *testing.T) {
	var now, most atomic.Int32
	socket := serveForTest(t, func(_ context.Context, req Request, _ *os.File) Response {
		n := now.Add(1)
		defer now.Add(-1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(5 * time.Millisecond)
		return echo(context.Background(), req, nil)
	})
	var wg sync.WaitGroup
	for i := range 4 * maxConns {
		wg.Go(func() {
			id := fmt.Sprintf("c%d", i)
			resp, err := Call(background(t), socket, Request{Verb: Del, Attachment: Attachment{"n", id, "eth0"}}, nil)
			if err != nil || resp.Host.Name != id {
				t.Errorf("%s: %+v %v", id, resp, err)
			}
		})
	}
	wg.Wait()
	if most.Load() > maxConns {
		t.Errorf("%d at once", most.Load())
	}
}

func TestShutdownWaitsForAnswersAndCutsOffTheSilent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	started, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, func(ctx context.Context, req Request, _ *os.File) Response {
			close(started)
			<-ctx.Done()
			return Response{Error: &Error{Code: CodeTryAgain, Msg: "agent stops"}}
		})
	}()
	silent, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	answered := make(chan error, 1)
	go func() {
		_, err := Call(background(t), socket, Request{Verb: Status}, nil)
		answered <- err
	}()
	<-started
	cancel()
	var refused *Error
	if err := <-answered; !errors.As(err, &refused) || refused.Code != CodeTryAgain {
		t.Errorf("the one that was served got %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(silent); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("socket is left: %v", err)
	}
}

// Another user gets in only when somebody has opened the folder and the socket to all, and even then no further.
func TestOtherUsersAreRefused(t *testing.T) {
	if socket := os.Getenv("POLDER_TEST_SOCKET"); socket != "" {
		_, err := Call(background(t), socket, Request{Verb: Status}, nil)
		fmt.Println("answer:", err)
		return
	}
	rootOnly(t)
	var handled atomic.Int32
	socket := serveForTest(t, func(context.Context, Request, *os.File) Response {
		handled.Add(1)
		return Response{}
	})
	ask := func() string {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestOtherUsersAreRefused$", "-test.v")
		cmd.Env = append(os.Environ(), "POLDER_TEST_SOCKET="+socket)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := ask(); !strings.Contains(out, "permission denied") {
		t.Errorf("with the modes as made: %s", out)
	}
	for dir := filepath.Dir(socket); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if out := ask(); !strings.Contains(out, "user 65534 may not ask the agent") {
		t.Errorf("with the modes opened: %s", out)
	}
	if handled.Load() != 0 {
		t.Error("the request was carried out")
	}
}

// rootOnly skips without root, unless tests that need it must run.
func rootOnly(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("POLDER_ROOT_TESTS") == "1" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}
