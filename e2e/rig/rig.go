package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Rig is a cluster and what it is made of.
type Rig struct {
	Plan     Plan
	State    string            // folder for everything that the rig writes
	Programs map[string]string // built programs by name
	Plugins  []string          // reference CNI plugins
	Images   []string          // docker-archives for every node
	Pause    string            // image that holds a pod's namespaces
	CoreDNS  string            // image of the name server
	Manifest string            // Polder's manifest; unused with the baseline network
	// PolicyAPI is the file with the definition of ClusterNetworkPolicy, which is no part of Kubernetes.
	PolicyAPI string
	Init      []string // command line that calls Init(name, dir)

	control     *Machine
	nodes       []*Machine
	credentials credentials
}

// Up starts the cluster, after it removed what an earlier one left behind.
func (r *Rig) Up(ctx context.Context) error {
	if err := r.Plan.Check(); err != nil {
		return err
	}
	if err := Down(r.State); err != nil {
		return err
	}
	if err := writePlan(r.State, r.Plan); err != nil {
		return err
	}
	start := time.Now()
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"machines", r.startMachines},
		{"control plane and images", r.startBoth},
		{"nodes", r.startNodes},
		{"policy API", r.installPolicyAPI},
		{"pod network", r.installNetwork},
		{"nodes ready", r.waitForNodes},
		{"name server", r.installDNS},
	} {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("start cluster: %s: %w", step.name, err)
		}
		slog.Info("up", "step", step.name, "after", time.Since(start).Round(100*time.Millisecond))
	}
	return nil
}

// Open finds a cluster that an earlier command left running.
func (r *Rig) Open() error {
	control, err := openMachine(r.State, ControlPlane)
	if err != nil {
		return err
	}
	r.control, r.credentials = control, credentials{dir: filepath.Join(r.State, "credentials")}
	for _, name := range r.Plan.NodeNames() {
		node, err := openMachine(r.State, name)
		if err != nil {
			return err
		}
		r.nodes = append(r.nodes, node)
	}
	return nil
}

// Machine returns a machine by its name.
func (r *Rig) Machine(name string) (*Machine, error) {
	for _, m := range append([]*Machine{r.control}, r.nodes...) {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("find machine %s: the rig has %s and %s", name, ControlPlane, strings.Join(r.Plan.NodeNames(), ", "))
}

// Kubeconfig is the administrator's; it works on the machines only.
func (r *Rig) Kubeconfig() string { return r.kubeconfig("admin") }

func (r *Rig) kubeconfig(user string) string { return kubeconfigFile(r.credentials.dir, user) }

// Kubectl runs kubectl as the administrator.
func (r *Rig) Kubectl(ctx context.Context, input io.Reader, arguments ...string) (string, error) {
	argv := append([]string{r.Programs["kubectl"], "--kubeconfig", r.Kubeconfig()}, arguments...)
	return r.control.RunInput(ctx, input, argv...)
}

// start starts a program under its own name; argv[0] is a built program's name, or a path.
func (r *Rig) start(m *Machine, name string, argv ...string) (*Daemon, error) {
	if path := r.Programs[argv[0]]; path != "" {
		argv = append([]string{path}, argv[1:]...)
	}
	return m.Start(name, argv...)
}

// searchPath lets containerd find its shim.
func (r *Rig) searchPath() string {
	return filepath.Dir(r.Programs["containerd-shim-runc-v2"]) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

func (r *Rig) startMachines(ctx context.Context) (err error) {
	if r.credentials, err = writeCredentials(filepath.Join(r.State, "credentials"), r.Plan); err != nil {
		return err
	}
	if r.control, err = startMachine(ctx, r.State, ControlPlane, r.Init); err != nil {
		return err
	}
	for _, name := range r.Plan.NodeNames() {
		node, err := startMachine(ctx, r.State, name, r.Init)
		if err != nil {
			return err
		}
		r.nodes = append(r.nodes, node)
	}
	return r.startUnderlay(ctx)
}

// startBoth starts the control plane while the nodes import their images.
func (r *Rig) startBoth(ctx context.Context) error {
	results := make(chan error)
	go func() { results <- r.startAPIServer(ctx) }()
	for number := range r.nodes {
		go func() { results <- r.startNode(ctx, number+1) }()
	}
	problem := <-results
	for range r.nodes {
		problem = errors.Join(problem, <-results)
	}
	if problem != nil {
		return problem
	}
	return r.startControllers()
}

func (r *Rig) startNodes(ctx context.Context) error {
	for number := 1; number <= len(r.nodes); number++ {
		if err := r.startKubelet(number); err != nil {
			return err
		}
		if r.Plan.Proxy != "kube-proxy" {
			continue
		}
		if err := r.startProxy(number); err != nil {
			return err
		}
	}
	return wait(ctx, 2*time.Minute, "pod CIDRs", func() error { return r.routeToPods(ctx) })
}

func (r *Rig) waitForNodes(ctx context.Context) error {
	_, err := r.Kubectl(ctx, nil, "wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
	return err
}

// Down ends whatever a rig with this state folder left: processes, control groups, files. Namespaces, links and mounts
// end with the processes.
func Down(state string) error {
	if err := removeCgroups(); err != nil {
		return err
	}
	if err := os.RemoveAll(state); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}
