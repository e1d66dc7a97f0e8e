package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// killer traces a process and kills it when it is about to make its n-th system call that changes something. That
// finds every state that a crash can leave behind: between two such calls nothing changes.
type killer struct {
	pid     int
	nth     int
	calls   int // so far
	threads []int
}

// killAt runs act and kills a process at its n-th change, or when act has returned. It returns how many changes the
// process began.
func killAt(pid, nth int, act func()) (calls int, err error) {
	k := &killer{pid: pid, nth: nth}
	ready, done := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // a tracer is a thread
		defer runtime.UnlockOSThread()
		err := k.seize()
		ready <- err
		if err == nil {
			err = k.follow()
		}
		done <- err
	}()
	if err := <-ready; err != nil {
		unix.Kill(pid, unix.SIGKILL)
		return 0, err
	}
	act()
	unix.Kill(pid, unix.SIGKILL) // it is gone, or our tracee: its number means nobody else
	err = <-done
	return k.calls, err
}

// seize takes all threads, also those that start meanwhile, and lets them go on to their next system call.
func (k *killer) seize() error {
	for {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", k.pid))
		if err != nil {
			return err
		}
		before := len(k.threads)
		for _, t := range tasks {
			tid, _ := strconv.Atoi(t.Name())
			if slices.Contains(k.threads, tid) {
				continue
			}
			if err := k.seizeThread(tid); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
				return fmt.Errorf("trace thread %d: %w", tid, err)
			}
			k.threads = append(k.threads, tid) // EPERM: it is traced already, as a thread that a traced one started
		}
		if len(k.threads) == before {
			break
		}
	}
	for _, tid := range k.threads {
		unix.PtraceSyscall(tid, 0) // one that is gone, or not stopped yet, comes up in follow
	}
	return nil
}

func (k *killer) seizeThread(tid int) error {
	if err := unix.PtraceSeize(tid); err != nil {
		return err
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil {
		return err
	}
	return unix.PtraceSetOptions(tid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE)
}

// follow lets the threads run from one system call to the next, until all are gone. It asks for each of them: waiting
// for any child would take other commands' exit statuses, whose parent is whatever thread the kernel chose.
func (k *killer) follow() error {
	for len(k.threads) > 0 {
		idle := true
		for _, tid := range slices.Clone(k.threads) {
			var status unix.WaitStatus
			got, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.ECHILD):
				k.forget(tid)
			case err != nil:
				return fmt.Errorf("wait for traced thread: %w", err)
			case got == 0:
				continue
			case status.Stopped():
				k.goOn(tid, status)
			default:
				k.forget(tid)
			}
			idle = false
		}
		if idle {
			time.Sleep(20 * time.Microsecond)
		}
	}
	return nil
}

func (k *killer) forget(tid int) {
	k.threads = slices.DeleteFunc(k.threads, func(t int) bool { return t == tid })
}

func (k *killer) goOn(tid int, status unix.WaitStatus) {
	signal := 0
	switch stop := status.StopSignal(); {
	case status.TrapCause() == unix.PTRACE_EVENT_CLONE:
		if started, err := unix.PtraceGetEventMsg(tid); err == nil {
			k.threads = append(k.threads, int(started))
		}
	case stop == unix.SIGTRAP|0x80:
		if k.changes(tid) {
			if k.calls++; k.calls == k.nth {
				unix.Kill(k.pid, unix.SIGKILL) // before the call is carried out
				return
			}
		}
	case int(status)>>16 == 0 && stop != unix.SIGTRAP:
		signal = int(stop) // on its way to the process
	}
	unix.PtraceSyscall(tid, signal) // ESRCH: it has been killed
}

// changes says whether a thread that stopped at a system call is about to begin one that changes something.
func (k *killer) changes(tid int) bool {
	const getSyscallInfo, entry = 0x420e, 1
	var info [88]byte // struct ptrace_syscall_info: op, then at 24 the number and the arguments
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), uintptr(len(info)), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 || info[0] != entry {
		return false
	}
	number, first := binary.NativeEndian.Uint64(info[24:]), binary.NativeEndian.Uint64(info[32:])
	switch number {
	case unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_WRITE, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_MKDIRAT:
		return true
	case unix.SYS_BPF:
		return slices.Contains([]uint64{unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM, unix.BPF_MAP_UPDATE_BATCH, unix.BPF_OBJ_PIN,
			unix.BPF_LINK_CREATE, unix.BPF_LINK_UPDATE, unix.BPF_LINK_DETACH}, first)
	}
	return false
}
