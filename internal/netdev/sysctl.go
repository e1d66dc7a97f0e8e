package netdev

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/table"
)

// readSysctl and writeSysctl act on the calling thread's network namespace.
func readSysctl(name string) (string, error) {
	b, err := os.ReadFile("/proc/sys/" + name)
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(name, value string) error {
	fd, err := unix.Open("/proc/sys/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	_, err = unix.Write(fd, []byte(value))
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

// syncSysctls writes the sysctls that have another value. Those of single links come before those of all: a node
// that starts to forward IPv6 drops the default routes of every link that was not told to keep them.
func (k *Kernel) syncSysctls(want map[string]string) (changes []Change, err error) {
	var errs errorList
	err = visit(k.netns, func() error {
		have := map[string]string{}
		for name := range want {
			if strings.HasPrefix(name, "net/ipv6/") && !k.ipv6 {
				errs.add(fmt.Errorf("set sysctl %s: %w", name, ErrNoIPv6))
				continue
			}
			value, err := readSysctl(name)
			if err != nil {
				errs.add(fmt.Errorf("read sysctl: %w", err))
				continue
			}
			have[name] = value
		}
		put, _ := table.Diff(have, want, func(a, b string) int {
			return cmp.Or(compareBools(strings.Contains(a, "/all/"), strings.Contains(b, "/all/")), cmp.Compare(a, b))
		})
		for _, c := range put {
			if _, ok := have[c.Key]; !ok {
				continue // could not be read, which was said
			}
			if err := writeSysctl(c.Key, c.Row); err != nil {
				errs.add(err)
				continue
			}
			changes = append(changes, Change{"sysctls", c.Key + "=" + c.Row, "replace"})
		}
		return nil
	})
	errs.add(err)
	return changes, errs.err()
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
