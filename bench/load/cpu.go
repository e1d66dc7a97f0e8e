package load

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// usage is processor time spent, in seconds.
type usage struct {
	softirq float64 // by the kernel's softirq threads
	busy    float64 // by everybody, as the complement of idle time
}

func sample(softirq []int) (usage, error) {
	var u usage
	for _, pid := range softirq {
		s, err := threadTime(pid)
		if err != nil {
			return u, err
		}
		u.softirq += s
	}
	var err error
	u.busy, err = busyTime()
	return u, err
}

// threads finds kernel threads by the start of their name.
func threads(prefix string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range files {
		name, err := os.ReadFile(f)
		if err != nil || !strings.HasPrefix(string(name), prefix) {
			continue // ended meanwhile, or another
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// threadTime reads the first field of /proc/PID/schedstat: nanoseconds on a processor.
func threadTime(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0, fmt.Errorf("read time of thread %d: %w", pid, err)
	}
	var ns float64
	if _, err := fmt.Sscan(string(b), &ns); err != nil {
		return 0, fmt.Errorf("read time of thread %d: %w", pid, err)
	}
	return ns / 1e9, nil
}

// busyTime is the machine's uptime on all processors less their idle time (/proc/uptime: idle time is counted to the
// nanosecond on a tickless kernel, where the other columns of /proc/stat are guessed from ticks).
func busyTime() (float64, error) {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, fmt.Errorf("read idle time: %w", err)
	}
	var up, idle float64
	if _, err := fmt.Sscan(string(b), &up, &idle); err != nil {
		return 0, fmt.Errorf("read idle time: %w", err)
	}
	cpus, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("count processors: %w", err)
	}
	count := strings.Count(string(cpus), "\ncpu")
	return up*float64(count) - idle, nil
}

// ownTime is this process's own, in the kernel and out of it. Softirqs that run while the process does are charged to
// it (a kernel without CONFIG_IRQ_TIME_ACCOUNTING).
func ownTime() (float64, error) {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0, fmt.Errorf("read own processor time: %w", err)
	}
	seconds := func(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(r.Utime) + seconds(r.Stime), nil
}
