package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Down takes a lab down, whatever is left of it: all its processes are killed by their control group, and with them go
// the namespaces, links, mounts and pins that lived in them. No lab is fine; it says whether there was one.
func Down(state string) (bool, error) {
	f := folder(state)
	if _, err := os.Stat(f.path("lock")); errors.Is(err, fs.ErrNotExist) {
		if findGroup(state) == "" {
			os.Remove(state) // left empty by one who was killed at once; a folder with anything in it stays
			return false, nil
		}
		// Somebody removed the folder under a running lab.
		if err := f.claim(); err != nil {
			return false, err
		}
	}
	if os.Geteuid() != 0 {
		return true, errNotRoot
	}
	unlock, err := f.lock(true)
	if err != nil {
		return false, err
	}
	defer unlock()
	return true, f.remove()
}

// Down takes the lab down.
func (c *Cluster) Down() error {
	pods, _ := c.Pods() // for their zombies alone
	_, err := Down(string(c.folder))
	for _, p := range pods {
		p.holder.reap()
	}
	c.reap()
	return err
}

// reap collects the exit status of the holders, where this process started them.
func (c *Cluster) reap() {
	c.record.Fabric.reap()
	c.record.Outside.Holder.reap()
	for _, n := range c.record.Nodes {
		n.Holder.reap()
	}
}

// remove kills and removes everything of a lab. The caller holds the lock; its file goes last.
func (f folder) remove() error {
	if err := f.release(); err != nil {
		return err
	}
	if err := os.RemoveAll(string(f)); err != nil {
		return fmt.Errorf("remove state folder: %w", err)
	}
	return nil
}

// release ends all that lives and unmounts the hierarchy of control groups, if the lab mounted it. Unless it is gone,
// the folder must not be walked by who removes things.
func (f folder) release() error {
	if group := findGroup(string(f)); group != "" {
		if err := removeGroup(group); err != nil {
			return err
		}
	}
	err := unix.Unmount(ownHierarchy(string(f)), 0)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", ownHierarchy(string(f)), err)
	}
	return nil
}

// clearRemains makes way for a new lab: it removes what a killed one left, and errors when one is up.
func (f folder) clearRemains(progress func(string)) error {
	r, err := f.load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		progress("clearing a lab whose record cannot be read: " + err.Error())
	}
	if err == nil && r.Up {
		for _, n := range r.Nodes {
			if n.Holder.alive() {
				return fmt.Errorf("%w in %s: see 'polder lab status', or take it down by 'polder lab down'", ErrUp, f)
			}
		}
	}
	if err == nil {
		progress("clearing the remains of a lab that was killed")
	}
	if err := f.release(); err != nil {
		return err
	}
	return f.empty()
}

// empty removes all of the folder's contents but the lock, which the caller holds.
func (f folder) empty() error {
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lock" {
			continue
		}
		if err := os.RemoveAll(f.path(e.Name())); err != nil {
			return fmt.Errorf("clear state folder: %w", err)
		}
	}
	return nil
}
