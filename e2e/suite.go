package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/polder-net/polder/e2e/report"
	"github.com/polder-net/polder/e2e/rig"
)

const (
	// defaultFocus is what a pod network answers for.
	defaultFocus = `\[sig-network\].*(\[Conformance\]|NoSNAT|HostPort|Granular Checks: Pods|IPv6DualStack\] should)`
	// smokeFocus is a handful of fast tests that every part of the network has to work for.
	smokeFocus = `\[sig-network\].*(NoSNAT|HostPort validates|Granular Checks: Pods.*(http|udp)|DNS should provide DNS for services|serve a basic endpoint)`
)

// test runs a suite on the control plane and keeps the outcomes for the report.
func (c config) test(ctx context.Context) error {
	r, err := c.openRig()
	if err != nil {
		return err
	}
	if c.suite == policySuite {
		return c.testPolicies(ctx, r)
	}
	return c.testKubernetes(ctx, r)
}

// testKubernetes runs Kubernetes' own suite.
func (c config) testKubernetes(ctx context.Context, r *rig.Rig) error {
	focus, skip := c.focus, c.skip
	if focus == "" {
		focus = defaultFocus
		if c.smoke {
			focus = smokeFocus
		}
	}
	if skip == "" {
		skip = report.SkipPattern(r.Plan)
	}
	machine, err := r.Machine("control-plane")
	if err != nil {
		return err
	}
	logs := filepath.Join(c.results(), "raw")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return fmt.Errorf("create results folder: %w", err)
	}
	stamp := time.Now().UTC().Format("20060102-150405")
	const raw = "last.json" // megabytes; what counts of it is kept for each run
	cmd := machine.Command(ctx, r.Programs["ginkgo"], "-p", "--procs="+strconv.Itoa(c.procs), "--focus="+focus, "--skip="+skip,
		"--no-color", "--silence-skips", "--timeout=6h", "--output-dir="+logs, "--json-report="+raw, r.Programs["e2e.test"], "--",
		"--kubeconfig="+r.Kubeconfig(), "--provider=skeleton", "--node-os-distro=debian", "--allowed-not-ready-nodes=0",
		"--num-nodes="+strconv.Itoa(r.Plan.Nodes))
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(r.Programs["kubectl"])+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	slog.Info("test", "cluster", r.Plan.Title(), "focus", focus, "procs", c.procs)
	ended := runSuite(cmd)
	content, err := os.ReadFile(filepath.Join(logs, raw))
	if err != nil {
		return errors.Join(ended, fmt.Errorf("read test results: %w", err))
	}
	outcomes, err := report.ParseGinkgo(content)
	if err != nil {
		return errors.Join(ended, err)
	}
	return errors.Join(ended, c.keepOutcomes(stamp, report.Run{Plan: r.Plan, Outcomes: outcomes}))
}

// runSuite runs a suite so that an interrupt reaches all its processes: it then cleans up and reports.
func runSuite(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	return cmd.Run()
}

func (c config) keepOutcomes(stamp string, run report.Run) (err error) {
	if run.Kubernetes, err = c.cache.Version("kubernetes"); err != nil {
		return err
	}
	return report.Save(c.results(), stamp, run)
}

// report writes the pages about all runs that are kept: of each suite, one.
func (c config) report() error {
	runs, err := report.Load(c.results())
	if err != nil {
		return err
	}
	kubernetes, err := c.cache.Version("kubernetes")
	if err != nil {
		return err
	}
	policies, err := c.cache.Version("network-policy-api")
	if err != nil {
		return err
	}
	return errors.Join(
		c.writePage("conformance.md", report.Page(report.Merge(runs, kubernetesSuite, c.plan.Network), kubernetes)),
		c.writePage("conformance-cnp.md", report.PolicyPage(report.Merge(runs, policySuite, c.plan.Network), policies, kubernetes)))
}

func (c config) writePage(name, page string) error {
	if c.plan.Network != "polder" { // a baseline is for us, not for readers
		_, err := fmt.Print(page)
		return err
	}
	if err := os.WriteFile(filepath.Join(c.repository(), "docs", name), []byte(page), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	slog.Info("report written", "file", "docs/"+name)
	return nil
}
