package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// podNamespace is the Kubernetes namespace of all the lab's pods.
const podNamespace = "default"

// Pod is a pod of a lab: a network namespace with a process in it, connected by the node's CNI plugins.
type Pod struct {
	Place
	Node      string
	Addresses []netip.Addr // none: ADD has not succeeded (yet)
	rec       podRecord
}

// PodOptions says which pod to create.
type PodOptions struct {
	Name string
	Node string // default: the node with the fewest pods

	// Capabilities are passed to the plugins as runtimeConfig: "portMappings", "bandwidth".
	Capabilities map[string]any
}

var errNoPod = errors.New("no pod")

var podPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func netnsPath(pod string) string { return "/run/netns/" + pod }

// CreatePod makes a pod and connects it. When that fails, nothing of the pod remains.
func (c *Cluster) CreatePod(ctx context.Context, o PodOptions) (*Pod, error) {
	unlock, err := c.folder.lock(false)
	if err != nil {
		return nil, err
	}
	defer unlock()
	node, err := c.choose(o)
	if err != nil {
		return nil, fmt.Errorf("create pod %s: %w", o.Name, err)
	}
	p := podRecord{
		Name: o.Name, Node: node.Name, UID: newUID(), ContainerID: newContainerID(), Capabilities: o.Capabilities,
	}
	if err := c.folder.reserve(p); err != nil {
		return nil, err
	}
	if err := node.createPod(ctx, &p); err != nil {
		// ctx may be what failed: the way back takes its own time.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, fmt.Errorf("create pod %s: %w", p.Name, errors.Join(err, node.deletePod(back, p)))
	}
	return node.pod(p), nil
}

// choose checks a pod's name and finds its node.
func (c *Cluster) choose(o PodOptions) (*Node, error) {
	if !podPattern.MatchString(o.Name) {
		return nil, errors.New("a pod's name has 1 to 63 lower-case letters, digits and dashes")
	}
	if _, err := c.Node(o.Name); err == nil || o.Name == "fabric" {
		return nil, errors.New("the name is taken by a part of the lab")
	}
	if o.Node != "" {
		return c.Node(o.Node)
	}
	pods, err := c.Pods()
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, p := range pods {
		count[p.Node]++
	}
	return slices.MinFunc(c.Nodes(), func(a, b *Node) int { return count[a.Name] - count[b.Name] }), nil
}

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
	if err := writeManifest(f.podManifest(p.Name), podManifest(*p, n.rec.addresses()[0])); err != nil {
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
	if err := writeJSON(f.pod(p.Name), p); err != nil {
		return err
	}
	return writeManifest(f.podManifest(p.Name), podManifest(*p, n.rec.addresses()[0]))
}

// startPod starts the pod's process in a network namespace of its own, which gets a name in the node's /run/netns.
func (n *Node) startPod(p *podRecord) error {
	group, err := newGroup(n.podGroup(p.Name))
	if err != nil {
		return err
	}
	defer group.Close()
	cmd := exec.Command(filepath.Join(n.lab.record.Bin, "polder"), "lab", "hold-pod", p.Name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUTS}
	err = n.in(inside, func() (err error) {
		p.Holder, err = startDetached(cmd, group, n.lab.folder.node(n.Name, "pods.log"))
		return err
	})
	if err != nil {
		return err
	}
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

// DeletePod disconnects a pod and ends it.
func (c *Cluster) DeletePod(ctx context.Context, name string) error {
	unlock, err := c.folder.lock(false)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := c.podRecord(name)
	if err != nil {
		return err
	}
	node, err := c.Node(p.Node)
	if err == nil {
		err = node.deletePod(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	return nil
}

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

func (c *Cluster) podRecord(name string) (podRecord, error) {
	var p podRecord
	if !podPattern.MatchString(name) {
		return p, fmt.Errorf("%w %q", errNoPod, name)
	}
	b, err := os.ReadFile(c.folder.pod(name))
	if errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("%w %s: see 'polder lab status'", errNoPod, name)
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("read pod %s: %w", name, err)
	}
	return p, nil
}

func (n *Node) pod(p podRecord) *Pod {
	return &Pod{Place{p.Name, p.Holder, n.podGroup(p.Name)}, p.Node, p.Addresses, p}
}

// Cluster returns what the pod is to Kubernetes.
func (p *Pod) Cluster() cluster.Pod {
	return cluster.Pod{
		Namespace: podNamespace, Name: p.Name, UID: p.rec.UID, Node: p.Node, Addresses: p.Addresses,
		Labels: map[string]string{"app": p.Name},
	}
}

// Pod returns the pod of that name.
func (c *Cluster) Pod(name string) (*Pod, error) {
	p, err := c.podRecord(name)
	if err != nil {
		return nil, err
	}
	node, err := c.Node(p.Node)
	if err != nil {
		return nil, err
	}
	return node.pod(p), nil
}

// Pods returns the lab's pods by name, those that are being created or deleted included.
func (c *Cluster) Pods() ([]*Pod, error) {
	files, err := filepath.Glob(c.folder.pod("*"))
	if err != nil {
		return nil, err
	}
	var pods []*Pod
	for _, file := range files {
		p, err := c.Pod(strings.TrimSuffix(filepath.Base(file), ".json"))
		if errors.Is(err, errNoPod) {
			continue // deleted in this moment
		}
		if err != nil {
			return nil, err
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// Place returns the node, pod or fabric of that name.
func (c *Cluster) Place(name string) (Place, error) {
	if name == "fabric" {
		return c.Fabric(), nil
	}
	if n, err := c.Node(name); err == nil {
		return n.Place, nil
	}
	p, err := c.Pod(name)
	if err != nil {
		return Place{}, fmt.Errorf("no node or pod %s: see 'polder lab status'", name)
	}
	return p.Place, nil
}
