package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The reference plugins, of one pinned version.
const (
	pluginsModule  = "github.com/containernetworking/plugins"
	pluginsVersion = "v1.9.1"
)

func referencePlugins() map[string]string {
	return map[string]string{
		"bridge": "main/bridge", "ptp": "main/ptp", "host-local": "ipam/host-local", "portmap": "meta/portmap",
	}
}

// buildPolder builds Polder's programs from the source tree around the working folder.
func buildPolder(ctx context.Context, folder string) error {
	module, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find module: %w", err)
	}
	return goBuild(ctx, filepath.Dir(strings.TrimSpace(string(module))), nil, folder+"/",
		"./cmd/polder", "./cmd/polder-agent", "./cmd/polder-cni")
}

// buildPlugins builds the reference plugins once, in a module of their own outside the source tree, so that Polder's
// never depends on them. It returns their folder, below the user's cache.
func buildPlugins(ctx context.Context, say func(string, ...any)) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	folder := filepath.Join(cache, "polder", "cni-plugins-"+pluginsVersion)
	if havePlugins(folder) {
		return folder, nil
	}
	say("building the reference CNI plugins %s (once)", pluginsVersion)
	scratch, err := os.MkdirTemp("", "polder-plugins-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	mod := fmt.Sprintf("module scratch\n\ngo 1.24\n\nrequire %s %s\n", pluginsModule, pluginsVersion)
	if err := os.WriteFile(filepath.Join(scratch, "go.mod"), []byte(mod), 0o644); err != nil {
		return "", err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("make plugins' folder: %w", err)
	}
	for name, path := range referencePlugins() {
		target := filepath.Join(folder, name)
		if err := goBuild(ctx, scratch, []string{"GOFLAGS=-mod=mod"}, target, pluginsModule+"/plugins/"+path); err != nil {
			return "", errors.Join(fmt.Errorf("build plugin %s: %w", name, err), os.RemoveAll(folder))
		}
	}
	return folder, nil
}

func havePlugins(folder string) bool {
	for name := range referencePlugins() {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			return false
		}
	}
	return true
}

// goBuild builds static programs without debugging symbols, as they are shipped.
func goBuild(ctx context.Context, dir string, env []string, target string, packages ...string) error {
	args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", target}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}
