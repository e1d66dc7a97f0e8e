package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Listen opens the agent's socket, for root alone, and makes its folder where there is none. What is left of an agent
// that nobody answers for is replaced. Two agents that start at once are kept apart by their lock, not here.
func Listen(path string) (*net.UnixListener, error) {
	if err := folder(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	// The kernel gives the socket's file the mode of the socket itself (unix_bind_bsd: SOCK_INODE(sock)->i_mode &
	// ~current_umask()), so there is no instant at which the file is open to others, and no umask to change.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }), err)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err // an OpError: says "listen" and the path
	}
	if err := checkMode(path); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	return l.(*net.UnixListener), nil
}

// folder makes the socket's folder, or checks that nobody else can change the one that is there.
func folder(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || owner != 0 && owner != uint32(os.Geteuid()) {
		return fmt.Errorf("%s is not a folder that only root may change (%s, owner %d)", path, info.Mode(), owner)
	}
	return nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("something is there that is not a socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return errors.New("another agent is there")
	}
	return os.Remove(path)
}

func checkMode(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&^0o600 != 0 {
		return fmt.Errorf("socket has mode %s", info.Mode())
	}
	return nil
}
