package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/polder-net/polder/e2e/parts"
	"github.com/polder-net/polder/e2e/rig"
)

// config is what the environment asks for.
type config struct {
	plan        rig.Plan
	suite       string // kubernetes, or cnp: that of ClusterNetworkPolicy
	focus, skip string // regular expressions over the names of tests; empty means the defaults
	procs       int
	keep        bool
	smoke       bool
	source      string // the folder of this program
	cache       parts.Cache
}

// readConfig reads the variables that README.md lists.
func readConfig() (config, error) {
	source, err := os.Getwd()
	if err != nil {
		return config{}, fmt.Errorf("find source folder: %w", err)
	}
	if _, err := os.Stat(filepath.Join(source, "modules", "kubernetes", "go.mod")); err != nil {
		return config{}, fmt.Errorf("find source folder: run this in the e2e folder: %w", err)
	}
	cache, err := os.UserCacheDir() // $XDG_CACHE_HOME, else ~/.cache
	if err != nil {
		return config{}, fmt.Errorf("find cache folder: %w", err)
	}
	c := config{
		plan: rig.Plan{
			Family:  setting("FAMILY", "dual"),
			Proxy:   setting("PROXY", "kube-proxy"),
			Network: setting("NETWORK", "polder"),
			Sockets: setting("SOCKETS", "on"),
		},
		suite:  setting("SUITE", kubernetesSuite),
		focus:  os.Getenv("FOCUS"),
		skip:   os.Getenv("SKIP"),
		keep:   os.Getenv("KEEP") == "1",
		smoke:  os.Getenv("SMOKE") == "1",
		source: source,
		cache:  parts.Cache{Source: source, Dir: filepath.Join(cache, "polder-e2e")},
	}
	c.plan.Policies = setting("POLICIES", "on")
	if os.Getenv("POLICIES") == "" && c.plan.Network == "ptp" && c.plan.Proxy == "kube-proxy" {
		c.plan.Policies = "off" // the baseline is without Polder, unless somebody asks for it
	}
	if c.suite != kubernetesSuite && c.suite != policySuite {
		return config{}, fmt.Errorf("read SUITE: %q is none of %s, %s", c.suite, kubernetesSuite, policySuite)
	}
	if c.plan.Nodes, err = number("NODES", 2); err != nil {
		return config{}, err
	}
	if c.procs, err = number("PROCS", 4*runtime.NumCPU()); err != nil {
		return config{}, err
	}
	return c, c.plan.Check()
}

func setting(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func number(name string, fallback int) (int, error) {
	value := os.Getenv(name)
	if value == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("read %s: %q is no positive number", name, value)
	}
	return n, nil
}

func (c config) repository() string { return filepath.Dir(c.source) }
func (c config) state() string      { return filepath.Join(c.cache.Dir, "run") }
func (c config) results() string    { return filepath.Join(c.cache.Dir, "results") }
func (c config) images() string     { return filepath.Join(c.cache.Dir, "images.tar") }
