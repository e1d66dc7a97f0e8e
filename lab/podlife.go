package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

func netnsPath(pod string) string { return "/run/netns/" + pod }

func newContainerID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func newUID() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// reserve takes a pod's name: its file is made only if there is none.
func (f folder) reserve(p podRecord) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	err = createFile(f.pod(p.Name), b)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create pod %s: there is one of that name", p.Name)
	}
	return err
}

// createPod goes the way of Kubernetes: the object is there before the network, its addresses come after ADD.
func (n *Node) createPod(ctx context.Context, p *podRecord) error {
	f := n.lab.folder
	if err := n.writePod(*p); err != nil {
		return err
	}
	if err := n.startPod(p); err != nil {
		return err
	}
	if err := writeJSON(f.pod(p.Name), p); err != nil {
		return err
	}
	err := n.CNI(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		result, err := cni.AddNetworkList(ctx, list, p.runtimeConf())
		if err != nil {
			return fmt.Errorf("CNI ADD: %w", err)
		}
		p.Addresses, err = resultAddresses(result)
		return err
	})
	if err != nil {
		return err
	}
	if err := n.awaitServing(ctx, *p); err != nil {
		return err
	}
	if err := writeJSON(f.pod(p.Name), p); err != nil {
		return err
	}
	return n.writePod(*p)
}

func (n *Node) writePod(p podRecord) error {
	return writeManifest(n.lab.folder.podManifest(p.Name), podManifest(p, n.rec.addresses()[0]))
}

// startPod starts the pod's process in a network namespace of its own, and names that.
func (n *Node) startPod(p *podRecord) error {
	group, err := newGroup(n.podGroup(p.Name))
	if err != nil {
		return err
	}
	defer group.Close()
	cmd := exec.Command(filepath.Join(n.lab.record.Bin, "polder"), "lab", "hold-pod", p.Name)
	for _, port := range p.Serve {
		cmd.Args = append(cmd.Args, "--serve", fmt.Sprint(port))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUTS}
	err = n.in(inside, func() (err error) {
		p.Holder, err = startDetached(cmd, group, n.lab.folder.node(n.Name, "pods.log"))
		return err
	})
	if err != nil {
		return err
	}
	own := Place{Name: p.Name, holder: p.Holder}
	if err := own.in(unix.CLONE_NEWUTS, func() error { return unix.Sethostname([]byte(p.Name)) }); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	return n.namePod(p)
}

// namePod gives the pod's network namespace a name in the node's /run/netns.
func (n *Node) namePod(p *podRecord) error {
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.Holder.PID))
	if err != nil {
		return err
	}
	defer netns.Close()
	if err := inNetns(netns, func() error { return setUp("lo") }); err != nil {
		return err
	}
	return n.in(inside, func() error {
		defer runtime.KeepAlive(netns)
		if err := os.WriteFile(netnsPath(p.Name), nil, 0o444); err != nil {
			return err
		}
		return bind(netns, netnsPath(p.Name))
	})
}

func (n *Node) podGroup(pod string) string { return filepath.Join(n.cgroup, "pod-"+pod) }

// deletePod goes the way back, from wherever createPod got to. What names the pod goes last: until then it can be
// tried again.
func (n *Node) deletePod(ctx context.Context, p podRecord) error {
	err := n.CNI(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		err := cni.DelNetworkList(ctx, list, p.runtimeConf())
		if said := (*types.Error)(nil); errors.As(err, &said) {
			return fmt.Errorf("CNI DEL: %w", said)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = n.in(inside, func() error {
		if err := unix.Unmount(netnsPath(p.Name), unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("unmount network namespace: %w", err)
		}
		return removeFile(netnsPath(p.Name))
	})
	if err != nil {
		return err
	}
	if err := removeGroup(n.podGroup(p.Name)); err != nil {
		return err
	}
	p.Holder.reap()
	if err := removeFile(n.lab.folder.podManifest(p.Name)); err != nil {
		return err
	}
	return removeFile(n.lab.folder.pod(p.Name))
}

// removeFile removes a file; one that is not there is fine.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
