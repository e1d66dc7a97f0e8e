package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/polder-net/polder/internal/api"
)

// delegateTime is how long an IPAM plugin may take; one that asks a DHCP server takes seconds.
const delegateTime = time.Minute

// delegate runs the IPAM plugin that the configuration names (specification, section 4): with the same environment
// but for the verb, and the same input; its stderr is ours. Its errors are returned with their codes.
func (c *call) delegate(ctx context.Context, verbName string) ([]byte, error) {
	path, err := findPlugin(c.conf.ipam, c.env("CNI_PATH"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, delegateTime)
	defer cancel()
	var out limited
	for {
		out = limited{}
		cmd := exec.CommandContext(ctx, path)
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+verbName) // of two, the last counts
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.conf.raw), &out, c.stderr
		cmd.WaitDelay = time.Second
		err = cmd.Run()
		if !errors.Is(err, syscall.ETXTBSY) || ctx.Err() != nil { // it is being written, as on an upgrade
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err == nil && out.over {
		err = fmt.Errorf("answer of more than %d bytes", maxInput)
	}
	if err != nil {
		return nil, delegateError(c.conf.ipam, verbName, out.text, errors.Join(ctx.Err(), err))
	}
	return out.text, nil
}

// delegateError takes the error that the plugin printed, or else says how it ended.
func delegateError(plugin, verbName string, out []byte, err error) error {
	var theirs api.Error
	if json.Unmarshal(out, &theirs) == nil && theirs.Code != 0 {
		theirs.Msg = fmt.Sprintf("%s of IPAM plugin %s: %s", verbName, plugin, theirs.Msg)
		return &theirs
	}
	return fail(api.CodeInternal, "%s of IPAM plugin %s: %v", verbName, plugin, err)
}

// limited keeps what a plugin prints up to the size of an input, and lets it print the rest. (A bytes.Buffer inside,
// embedded, would be read into without a limit.)
type limited struct {
	text []byte
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	l.over = l.over || len(l.text)+len(p) > maxInput
	if !l.over {
		l.text = append(l.text, p...)
	}
	return len(p), nil
}

// findPlugin looks for a plugin's file in CNI_PATH. It is never ourselves: that would call itself again for ever.
func findPlugin(name, path string) (string, error) {
	if path == "" {
		return "", fail(api.CodeEnvironment, "CNI_PATH is not set, and IPAM plugin %s is to be called", name)
	}
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", fail(api.CodeIO, "find IPAM plugin: %v", err)
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 || !filepath.IsAbs(dir) {
			continue
		}
		if os.SameFile(own, info) {
			return "", fail(api.CodeInvalidConfig, "ipam.type %s is polder-cni itself; %s gives Polder's addresses", quote(name), ipamName)
		}
		return file, nil
	}
	return "", fail(api.CodeInvalidConfig, "find IPAM plugin %s in CNI_PATH %s: no such program", quote(name), path)
}

// granted is what a delegated IPAM plugin gave.
type granted struct {
	addresses []api.Address
	routes    []api.Route // without default routes
	dns       types.DNS
}

// delegateAdd gets addresses. When it fails, nothing is held.
func (c *call) delegateAdd(ctx context.Context) (granted, error) {
	out, err := c.delegate(ctx, "ADD")
	var g granted
	if err == nil {
		if g, err = parseGranted(out, c.conf); err == nil {
			return g, nil
		}
		err = fmt.Errorf("result of IPAM plugin %s: %w", c.conf.ipam, err)
	}
	_, delErr := c.delegate(ctx, "DEL")
	return granted{}, gather("getting addresses", codeOf(err), delErr)
}

// codeOf gives an error that has no code the one for what a plugin got wrong.
func codeOf(err error) error {
	if coded := new(*api.Error); errors.As(err, coded) {
		return &api.Error{Code: (*coded).Code, Msg: err.Error()}
	}
	return fail(api.CodeInternal, "%v", err)
}

// parseGranted reads the result of an IPAM plugin: at least one address, each once, and routes that Polder can set.
func parseGranted(out []byte, conf config) (granted, error) {
	result, err := parseResult("result", out, conf.version)
	if err != nil {
		return granted{}, err
	}
	g := granted{dns: result.DNS}
	if g.addresses, err = decodeAddresses(result.IPs, everyAddress); err != nil {
		return granted{}, err
	}
	if len(g.addresses) == 0 {
		return granted{}, errors.New("it has no address")
	}
	for i, a := range g.addresses {
		for _, b := range g.addresses[:i] {
			if a.Prefix.Addr() == b.Prefix.Addr() {
				return granted{}, fmt.Errorf("it has address %s twice", a.Prefix.Addr())
			}
		}
	}
	for _, r := range result.Routes {
		if r.AdvMSS != 0 || r.Priority != 0 || r.Table != nil || r.Scope != nil {
			return granted{}, fail(api.CodeUnsupported, "route %s: Polder sets routes with dst, gw and mtu only", r)
		}
	}
	routes, err := decodeRoutes(result.Routes)
	for _, r := range routes {
		if r.Dst.Bits() > 0 {
			g.routes = append(g.routes, r)
		}
	}
	return g, err
}
