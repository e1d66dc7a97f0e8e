package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/route"
)

// The network's name, the file that says so, and the plugins' names.
const (
	networkName  = "polder"
	conflistName = "05-polder.conflist" // first of its folder: runtimes take the first
	pluginName   = "polder-cni"
	ipamName     = "polder-ipam"
)

// installCNI puts the plugin and then the network's configuration in place. The configuration comes last: it is what
// tells the runtime that pods may start here.
func (a *Agent) installCNI() error {
	if a.off() && !a.guardsOthers() {
		return a.uninstallCNI()
	}
	if err := a.installPlugin(); err != nil {
		return err
	}
	if a.off() { // who connects pods may chain the plugin behind itself
		return a.uninstallCNI()
	}
	if a.cfg.CNINet == "" || len(a.pools) == 0 {
		return nil
	}
	if other, err := ownConfiguration(a.cfg.CNINet); err != nil || other != "" {
		return err
	}
	body, err := conflist(a.chained(), a.cfg.Options.Services)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.cfg.CNINet, 0o755); err != nil {
		return fmt.Errorf("make CNI configuration folder: %w", err)
	}
	if err := replaceFile(filepath.Join(a.cfg.CNINet, conflistName), body, 0o644); err != nil {
		return fmt.Errorf("install CNI configuration: %w", err)
	}
	return nil
}

// installPlugin copies the plugin under both of its names: once a start, and again when somebody removed it.
func (a *Agent) installPlugin() error {
	if a.cfg.CNIBin == "" {
		return nil
	}
	if err := os.MkdirAll(a.cfg.CNIBin, 0o755); err != nil {
		return fmt.Errorf("make plugin folder: %w", err)
	}
	for _, name := range []string{pluginName, ipamName} {
		to := filepath.Join(a.cfg.CNIBin, name)
		if _, err := os.Stat(to); err == nil && a.installed {
			continue
		}
		if err := copyProgram(a.cfg.Plugin, to); err != nil {
			return fmt.Errorf("install plugin %s: %w", name, err)
		}
	}
	a.installed = true
	return nil
}

// ownConfiguration finds a configuration of the user's that names Polder's plugins: then theirs is the one.
func ownConfiguration(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list CNI configurations: %w", err)
	}
	for _, e := range entries {
		if e.Name() == conflistName || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		body, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // it went away
		}
		if bytes.Contains(body, []byte(`"`+pluginName+`"`)) || bytes.Contains(body, []byte(`"`+ipamName+`"`)) {
			return e.Name(), nil
		}
	}
	return "", nil
}

// chained are the reference plugins that do what Polder leaves to them, as far as they are installed.
func (a *Agent) chained() []string {
	var have []string
	for _, name := range a.chainable() {
		if _, err := os.Stat(filepath.Join(a.cfg.CNIBin, name)); err == nil {
			have = append(have, name)
		}
	}
	return have
}

// chainable: host ports are Polder's own where it serves Services.
func (a *Agent) chainable() []string {
	if a.cfg.Options.Services {
		return []string{"bandwidth"}
	}
	return []string{"portmap", "bandwidth"}
}

// missingPlugins says what does not work without them.
func (a *Agent) missingPlugins() []cluster.Problem {
	what := map[string]string{"portmap": "hostPort does", "bandwidth": "the annotations kubernetes.io/ingress-bandwidth and egress-bandwidth do"}
	var problems []cluster.Problem
	if a.off() {
		return nil
	}
	for _, name := range a.chainable() {
		if !slices.Contains(a.chained(), name) {
			problems = append(problems, cluster.Problem{Object: "Node/" + a.cfg.Node, Message: fmt.Sprintf(
				"%s not work here: there is no %s; install the reference CNI plugins", what[name], filepath.Join(a.cfg.CNIBin, name))})
		}
	}
	return problems
}

// conflist is the network's configuration. An older runtime knows cniVersion alone, a newer one picks the best of
// cniVersions.
func conflist(chained []string, hostPorts bool) ([]byte, error) {
	type plugin struct {
		Type         string          `json:"type"`
		SNAT         bool            `json:"snat,omitempty"`
		Capabilities map[string]bool `json:"capabilities,omitempty"`
	}
	own := map[string]bool{}
	plugins := []plugin{{Type: pluginName, Capabilities: own}}
	if hostPorts {
		own["portMappings"] = true
	}
	for _, name := range chained {
		switch name {
		case "portmap":
			plugins = append(plugins, plugin{Type: name, SNAT: true, Capabilities: map[string]bool{"portMappings": true}})
		case "bandwidth":
			own["bandwidth"] = true // Polder steers shaped pods through the stack
			plugins = append(plugins, plugin{Type: name, Capabilities: map[string]bool{"bandwidth": true}})
		}
	}
	body, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0", "cniVersions": []string{"0.4.0", "1.0.0", "1.1.0"}, "name": networkName, "plugins": plugins,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return append(body, '\n'), nil
}

// copyProgram installs a program, unless it is there already: a running plugin keeps the file it was started from.
func copyProgram(from, to string) error {
	body, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return replaceFile(to, body, 0o755)
}

// replaceFile writes a file in one step: whoever reads it sees the old one or the new one, whole. What an agent that
// was killed in the middle left is in the way of nobody, and goes with the next one.
func replaceFile(path string, body []byte, mode os.FileMode) error {
	tmp := filepath.Join(filepath.Dir(path), "."+strings.TrimPrefix(filepath.Base(path), ".")+".new")
	defer os.Remove(tmp)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, body) {
		return nil
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(body); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// off: another CNI plugin connects this node's pods.
func (a *Agent) off() bool { return a.cfg.Options.Routing == route.ModeOff }

// uninstallCNI takes the network's configuration away: the next one in the folder is the runtime's.
func (a *Agent) uninstallCNI() error {
	if a.cfg.CNINet == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(a.cfg.CNINet, conflistName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove CNI configuration: %w", err)
	}
	return nil
}
