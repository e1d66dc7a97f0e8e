package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/polder-net/polder/e2e/report"
	"github.com/polder-net/polder/e2e/rig"
)

// The suites that there are, as SUITE and the kept runs name them.
const (
	kubernetesSuite = "kubernetes"
	policySuite     = "cnp"
)

// policyTest is the test of the policy suite's program that runs all others as its sub-tests.
const policyTest = "TestConformance"

// testPolicies runs the conformance suite of ClusterNetworkPolicy. Its tests are few and wait for each other.
func (c config) testPolicies(ctx context.Context, r *rig.Rig) error {
	machine, err := r.Machine(rig.ControlPlane)
	if err != nil {
		return err
	}
	stamp, logs := time.Now().UTC().Format("20060102-150405"), filepath.Join(c.results(), "raw")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return fmt.Errorf("create results folder: %w", err)
	}
	// What a run before this one left is still ending, for as long as its pods may take to.
	if _, err := r.Kubectl(ctx, nil, "wait", "--for=delete", "namespace", "--selector=conformance-house", "--timeout=120s"); err != nil {
		return err
	}
	var output bytes.Buffer
	cmd := machine.Command(ctx, append([]string{r.Programs["cnp.test"]}, policyArguments(c.focus, c.skip)...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+r.Kubeconfig())
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &output), os.Stderr
	slog.Info("test", "suite", c.suite, "cluster", r.Plan.Title(), "focus", c.focus)
	ended := runSuite(cmd)
	if err := os.WriteFile(filepath.Join(logs, "last-cnp.txt"), output.Bytes(), 0o644); err != nil {
		return errors.Join(ended, fmt.Errorf("keep output: %w", err))
	}
	outcomes := report.ParseGoTest(output.String(), policyTest+"/")
	return errors.Join(ended, c.keepOutcomes(stamp, report.Run{Suite: policySuite, Plan: r.Plan, Outcomes: outcomes}))
}

// policyArguments choose tests as `go test` does: by one expression for the test and, after a slash, one for its sub-tests.
func policyArguments(focus, skip string) []string {
	arguments := []string{"-test.v", "-test.timeout=2h", "-test.run=^" + policyTest + "$/" + focus}
	if skip != "" {
		arguments = append(arguments, "-test.skip=^"+policyTest+"$/"+skip)
	}
	return append(arguments, "-all-features")
}
