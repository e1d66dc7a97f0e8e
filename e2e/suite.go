package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/polder-net/polder/e2e/report"
)

const (
	// defaultFocus is what a pod network answers for.
	defaultFocus = `\[sig-network\].*(\[Conformance\]|NoSNAT|HostPort|Granular Checks: Pods|IPv6DualStack\] should)`
	// smokeFocus is a handful of fast tests that every part of the network has to work for.
	smokeFocus = `\[sig-network\].*(NoSNAT|HostPort validates|Granular Checks: Pods.*(http|udp)|DNS should provide DNS for services|serve a basic endpoint)`
)

// test runs the upstream suite on the control plane and keeps the outcomes for the report.
func (c config) test(ctx context.Context) error {
	r, err := c.openRig()
	if err != nil {
		return err
	}
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) } // ginkgo cleans up and reports
	cmd.WaitDelay = time.Minute
	slog.Info("test", "cluster", r.Plan.Title(), "focus", focus, "procs", c.procs)
	ended := cmd.Run()
	return errors.Join(ended, c.keepOutcomes(filepath.Join(logs, raw), stamp, report.Run{Plan: r.Plan}))
}

func (c config) keepOutcomes(raw, stamp string, run report.Run) error {
	content, err := os.ReadFile(raw)
	if err != nil {
		return fmt.Errorf("read test results: %w", err)
	}
	if run.Outcomes, err = report.ParseGinkgo(content); err != nil {
		return err
	}
	if run.Kubernetes, err = c.cache.Version("kubernetes"); err != nil {
		return err
	}
	return report.Save(c.results(), stamp, run)
}

// report writes the page about all runs that are kept.
func (c config) report() error {
	runs, err := report.Load(c.results())
	if err != nil {
		return err
	}
	version, err := c.cache.Version("kubernetes")
	if err != nil {
		return err
	}
	page := report.Page(report.Merge(runs, c.plan.Network), version)
	if c.plan.Network != "polder" { // a baseline is for us, not for readers
		_, err := fmt.Print(page)
		return err
	}
	file := filepath.Join(c.repository(), "docs", "conformance.md")
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	slog.Info("report written", "file", "docs/conformance.md")
	return nil
}
