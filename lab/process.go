package lab

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errGone says that a recorded process is no longer there.
var errGone = errors.New("process is gone")

// process identifies a process beyond the reuse of its number: by its start time, in the kernel's ticks since boot.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// identify returns the identity of a running process.
func identify(pid int) (process, error) {
	start, err := startTime(pid)
	return process{pid, start}, err
}

// startTime reads field 22 of /proc/PID/stat (proc(5)). Fields are counted behind the last parenthesis, since the
// program's name may hold anything.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, errGone
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const state, start = 0, 19
	if len(fields) <= start || fields[state] == "Z" {
		return 0, errGone
	}
	return strconv.ParseUint(fields[start], 10, 64)
}

// open returns a descriptor of the process. The start time is compared after opening: from then on, the descriptor
// cannot come to mean another process.
func (p process) open() (*os.File, error) {
	if p.PID == 0 {
		return nil, errGone
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return nil, errGone
	}
	file := os.NewFile(uintptr(fd), fmt.Sprintf("process %d", p.PID))
	if start, err := startTime(p.PID); err != nil || start != p.Start {
		file.Close()
		return nil, errGone
	}
	return file, nil
}

func (p process) alive() bool {
	file, err := p.open()
	if err != nil {
		return false
	}
	file.Close()
	return true
}

// signal sends a signal; to a process that is gone it sends none.
func (p process) signal(sig unix.Signal) error {
	file, err := p.open()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.PidfdSendSignal(int(file.Fd()), sig, nil, 0)
}

// reap collects the exit status of a child that has ended; of other processes it is not ours to collect.
func (p process) reap() {
	if p.PID != 0 {
		unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
	}
}
