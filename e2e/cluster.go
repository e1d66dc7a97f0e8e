package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/polder-net/polder/e2e/image"
	"github.com/polder-net/polder/e2e/parts"
	"github.com/polder-net/polder/e2e/rig"
)

// build makes everything that the cache lacks.
func (c config) build(ctx context.Context) error {
	if err := parts.InstallDebian(ctx, os.Stdout); err != nil {
		return err
	}
	if err := c.cache.Build(ctx, os.Stdout); err != nil {
		return err
	}
	if err := c.keepPolicyAPI(ctx); err != nil {
		return err
	}
	return c.buildImages(ctx)
}

// buildImages writes the archive of images again when a program in it is newer.
func (c config) buildImages(ctx context.Context) error {
	var suite image.Suite
	for name, place := range map[string]*string{
		"agnhost": &suite.Agnhost, "regression-issue-74839": &suite.Regression, "coredns": &suite.CoreDNS, "pause": &suite.Pause, "sctp": &suite.SCTP,
	} {
		path, err := c.cache.Path(name)
		if err != nil {
			return err
		}
		*place = path
	}
	current, err := newer(c.images(), suite.Agnhost, suite.Regression, suite.CoreDNS, suite.Pause, suite.SCTP)
	if err != nil || current {
		return err
	}
	source, err := c.moduleSource(ctx, "kubernetes", "k8s.io/kubernetes")
	if err != nil {
		return err
	}
	suite.AgnhostSource = filepath.Join(source, "test/images/agnhost")
	start := time.Now()
	if err := suite.Write(c.images()); err != nil {
		return err
	}
	fmt.Printf("build images: %d s\n", int(time.Since(start).Seconds()))
	return nil
}

// moduleSource finds the source of a module that one of the scratch modules requires.
func (c config) moduleSource(ctx context.Context, scratch, module string) (string, error) {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module)
	list.Dir = filepath.Join(c.source, "modules", scratch)
	source, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("find source of %s: %w", module, err)
	}
	return strings.TrimSpace(string(source)), nil
}

// policyAPI is where the definition of ClusterNetworkPolicy is kept, beside the suite that tests it. It is that of the
// experimental channel: the standard one lacks nodes and domainNames, and is otherwise the same.
func (c config) policyAPI() (string, error) {
	folder, err := c.cache.Folder("network-policy-api")
	return filepath.Join(folder, "clusternetworkpolicies.yaml"), err
}

// keepPolicyAPI copies the definition into the cache, unless it is there.
func (c config) keepPolicyAPI(ctx context.Context) error {
	file, err := c.policyAPI()
	if err != nil {
		return err
	}
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	source, err := c.moduleSource(ctx, "network-policy-api", "sigs.k8s.io/network-policy-api")
	if err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(source, "config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml"))
	if err != nil {
		return fmt.Errorf("keep policy API: %w", err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return fmt.Errorf("keep policy API: %w", err)
	}
	return nil
}

// newer says whether a file exists and is newer than all its sources.
func newer(file string, sources ...string) (bool, error) {
	have, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", file, err)
	}
	for _, source := range sources {
		info, err := os.Stat(source)
		if err != nil {
			return false, fmt.Errorf("look for source: %w", err)
		}
		if info.ModTime().After(have.ModTime()) {
			return false, nil
		}
	}
	return true, nil
}

// rig describes the cluster that the configuration asks for.
func (c config) rig() (*rig.Rig, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	r := &rig.Rig{
		Plan: c.plan, State: c.state(), Programs: map[string]string{}, Images: []string{c.images()},
		Pause: image.PauseName, CoreDNS: image.CoreDNSName, Init: []string{self, "init"},
		Manifest: filepath.Join(c.repository(), "deploy", "polder.yaml"),
	}
	if r.PolicyAPI, err = c.policyAPI(); err != nil {
		return nil, err
	}
	for _, part := range parts.All() {
		path, err := c.cache.Path(part.Name)
		if err != nil {
			return nil, err
		}
		r.Programs[part.Name] = path
		if part.Module == "cni" && part.Name != "cnitool" {
			r.Plugins = append(r.Plugins, path)
		}
	}
	if c.plan.HasPolder() {
		r.Images = append(r.Images, filepath.Join(c.repository(), "dist", "polder.tar"))
	}
	return r, nil
}

// up starts the cluster.
func (c config) up(ctx context.Context) error {
	r, err := c.rig()
	if err != nil {
		return err
	}
	for _, file := range r.Images {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("find image archive: %w (the top Makefile builds Polder's, `build` the others)", err)
		}
	}
	if err := r.Up(ctx); err != nil {
		return err
	}
	slog.Info("cluster is up", "what", r.Describe())
	return nil
}

// exec runs a command on a machine of the rig: for people.
func (c config) exec(ctx context.Context, arguments []string) error {
	if len(arguments) < 2 {
		return errors.New("run command: want a machine and a command, for example: exec node1 ip route")
	}
	r, err := c.openRig()
	if err != nil {
		return err
	}
	m, err := r.Machine(arguments[0])
	if err != nil {
		return err
	}
	cmd := m.Command(ctx, arguments[1:]...)
	programs := []string{}
	for _, name := range []string{"kubectl", "ctr", "cnitool", "etcd"} {
		programs = append(programs, filepath.Dir(r.Programs[name]))
	}
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.Kubeconfig(), "PATH="+strings.Join(programs, ":")+":"+os.Getenv("PATH"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// openRig finds the running cluster, whatever the variables say now.
func (c config) openRig() (*rig.Rig, error) {
	plan, err := rig.ReadPlan(c.state())
	if err != nil {
		return nil, err
	}
	c.plan = plan
	r, err := c.rig()
	if err != nil {
		return nil, err
	}
	return r, r.Open()
}
