// Package load makes traffic between two network namespaces and measures it: request and response on one connection,
// connections of one request each, a stream, and small datagrams. Client and server are processes of their own, each
// on a processor of its own choice; all that Go's runtime could add is kept out of the way, since what is measured is
// a few microseconds.
package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/bench/rig"
)

// Kind is a kind of load.
type Kind string

// The kinds.
const (
	RR     Kind = "rr"     // one byte there, one byte back, on one TCP connection
	CRR    Kind = "crr"    // connect, one byte there and back, the server closes
	Stream Kind = "stream" // TCP, as much as goes
	UDP    Kind = "udp"    // datagrams of 18 bytes: 64 on an Ethernet wire

	Connect Kind = "connect" // TCP connections, each timed until it is there, then cut
	Beside  Kind = "beside"  // the same by way of Services and to the server itself, in turn
)

// Spec is one measurement.
type Spec struct {
	Kind           Kind
	From, To       rig.End
	FromCPU, ToCPU int
	Flows          int // UDP: how many source ports are used in turn; Connect: the first of them
	Via            Via // TCP: where the client connects to, instead of the server's own address
	Time           time.Duration
}

// Result is what came of it.
type Result struct {
	Seconds float64 `json:"seconds"` // of the measured part
	Ops     float64 `json:"ops"`     // requests answered, connections, datagrams received
	Sent    float64 `json:"sent"`    // UDP: datagrams sent
	Bytes   float64 `json:"bytes"`   // Stream: received
	Work    float64 `json:"work"`    // operations, or bytes of a Stream, with those of the warm-up
	CPU     float64 `json:"cpu"`     // seconds of client, server and the kernel's softirq threads for all of the work
	Busy    float64 `json:"busy"`    // seconds that the machine's processors were not idle, whoever used them

	// Of Connect and Beside: what a connection took, by way of Services and to the server itself.
	Service, Direct Latency
}

// Rate is operations a second.
func (r Result) Rate() float64 { return r.Ops / r.Seconds }

// Throughput is bytes a second.
func (r Result) Throughput() float64 { return r.Bytes / r.Seconds }

// PerCPU is work for each second of processor time. Other work on the machine does not spoil it as it does a rate.
func (r Result) PerCPU() float64 { return r.Work / r.CPU }

// Program is the first argument that makes this program a generator; the rest is for Main.
const Program = "generate"

// Port is where servers listen.
const Port = 5201

// reply is what a generator says of itself.
type reply struct {
	Seconds, Ops, Sent, Bytes, Work, CPU float64
	Service, Direct                      Latency
}

// Run does one measurement.
func Run(ctx context.Context, s Spec) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Time+20*time.Second)
	defer cancel()
	softirq, err := threads("ksoftirqd/")
	if err != nil {
		return Result{}, err
	}
	before, err := sample(softirq)
	if err != nil {
		return Result{}, err
	}
	server, client, err := s.run(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("measure %s: %w", s.Kind, err)
	}
	after, err := sample(softirq)
	if err != nil {
		return Result{}, err
	}
	r := Result{
		Seconds: client.Seconds, Ops: client.Ops, Sent: client.Sent, Bytes: server.Bytes, Work: client.Work,
		CPU: client.CPU + server.CPU + after.softirq - before.softirq, Busy: after.busy - before.busy,
		Service: client.Service, Direct: client.Direct,
	}
	if s.Kind == UDP || s.Kind == Stream { // what counts is what arrives
		r.Ops, r.Seconds, r.Work = server.Ops, server.Seconds, server.Work
	}
	if r.Seconds <= 0 || r.Ops+r.Bytes == 0 {
		return r, fmt.Errorf("measure %s from %s to %s: nothing arrived", s.Kind, s.From.Addr, s.To.Addr)
	}
	return r, nil
}

func (s Spec) run(ctx context.Context) (server, client reply, err error) {
	var output, clientOutput bytes.Buffer
	srv := s.command(ctx, "server")
	ready, err := srv.StdoutPipe()
	if err != nil {
		return server, client, err
	}
	if err := start(srv, s.To, s.ToCPU); err != nil {
		return server, client, err
	}
	lines := bufio.NewReader(ready)
	if _, err := lines.ReadString('\n'); err != nil {
		return server, client, errors.Join(fmt.Errorf("start server: %w", err), srv.Wait())
	}
	cli := s.command(ctx, "client")
	cli.Stdout = &clientOutput
	err = start(cli, s.From, s.FromCPU)
	if err == nil {
		err = cli.Wait()
	}
	if err != nil {
		srv.Process.Kill() // it would wait for a client for ever
		srv.Wait()
		return server, client, fmt.Errorf("run client: %w", err)
	}
	if _, err := output.ReadFrom(lines); err != nil {
		return server, client, errors.Join(err, srv.Wait())
	}
	if err := srv.Wait(); err != nil {
		return server, client, fmt.Errorf("run server: %w", err)
	}
	return server, client, errors.Join(json.Unmarshal(output.Bytes(), &server), json.Unmarshal(clientOutput.Bytes(), &client))
}

func (s Spec) command(ctx context.Context, role string) *exec.Cmd {
	to := netip.AddrPortFrom(s.To.Addr, Port)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", Program, role, string(s.Kind), to.String(), s.From.Addr.String(),
		strconv.Itoa(max(s.Flows, 1)), s.Time.String(), s.Via.String())
	// No signals to preempt goroutines: there is one, and it sits in system calls.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	cmd.Stderr = os.Stderr
	return cmd
}

// start starts a process at an end, all its threads on one processor.
func start(cmd *exec.Cmd, at rig.End, cpu int) error {
	if at.Group != "" {
		group, err := os.Open(at.Group)
		if err != nil {
			return fmt.Errorf("open control group: %w", err)
		}
		defer group.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	}
	return rig.In(at.NS, func() error {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pin to processor %d: %w", cpu, err)
		}
		return cmd.Start()
	})
}
