// Package parts builds what a cluster on one machine is made of: Kubernetes, etcd, containerd, CoreDNS, the reference
// CNI plugins and the suites, each from its Go module, each kept in a cache folder keyed by its version; and it
// installs the few Debian packages that have no Go module. It starts nothing.
package parts

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// Part is one program and where it comes from.
type Part struct {
	Module  string // folder below modules/, also the first half of the cache key
	Name    string // file name of the program
	Package string // Go package to build
	Test    bool   // a test binary: go test -c instead of go build
}

// All lists the parts in build order, the longest first, as the others reuse its packages.
func All() []Part {
	var all []Part
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kubelet", "kube-scheduler", "kube-proxy", "kubectl"} {
		all = append(all, Part{Module: "kubernetes", Name: name, Package: "k8s.io/kubernetes/cmd/" + name})
	}
	for _, name := range []string{"agnhost", "regression-issue-74839"} {
		all = append(all, Part{Module: "kubernetes", Name: name, Package: "k8s.io/kubernetes/test/images/" + name})
	}
	all = append(all, Part{Module: "etcd", Name: "etcd", Package: "go.etcd.io/etcd/server/v3"})
	for _, name := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
		all = append(all, Part{Module: "containerd", Name: name, Package: "github.com/containerd/containerd/v2/cmd/" + name})
	}
	for _, plugin := range []string{
		"main/bridge", "main/host-device", "main/loopback", "main/macvlan", "main/ptp", "ipam/host-local", "ipam/static",
		"meta/bandwidth", "meta/firewall", "meta/portmap", "meta/sbr", "meta/tuning",
	} {
		all = append(all, Part{Module: "cni", Name: filepath.Base(plugin), Package: "github.com/containernetworking/plugins/plugins/" + plugin})
	}
	return append(all,
		Part{Module: "cni", Name: "cnitool", Package: "github.com/containernetworking/cni/cnitool"},
		Part{Module: "coredns", Name: "coredns", Package: "github.com/coredns/coredns"},
		Part{Module: "kubernetes", Name: "ginkgo", Package: "github.com/onsi/ginkgo/v2/ginkgo"},
		Part{Module: "kubernetes", Name: "e2e.test", Package: "k8s.io/kubernetes/test/e2e", Test: true},
		Part{Module: "network-policy-api", Name: "cnp.test", Package: "sigs.k8s.io/network-policy-api/conformance", Test: true},
		Part{Module: "", Name: "pause", Package: "./pause"},
		Part{Module: "", Name: "sctp", Package: "./sctp"},
	)
}

// mainModule says which requirement of a scratch module gives the module its version.
func mainModule(module string) string {
	switch module {
	case "kubernetes":
		return "k8s.io/kubernetes"
	case "etcd":
		return "go.etcd.io/etcd/server/v3"
	case "containerd":
		return "github.com/containerd/containerd/v2"
	case "coredns":
		return "github.com/coredns/coredns"
	case "network-policy-api":
		return "sigs.k8s.io/network-policy-api"
	}
	return "github.com/containernetworking/plugins"
}

// versionIn returns the version that a go.mod requires of a module.
func versionIn(goMod []byte, module string) (string, error) {
	line := regexp.MustCompile(`(?m)^(?:require )?\s*` + regexp.QuoteMeta(module) + `\s+(v\S+)`)
	found := line.FindSubmatch(goMod)
	if found == nil {
		return "", fmt.Errorf("find version of %s: not in go.mod", module)
	}
	return string(found[1]), nil
}

// Cache knows where the source of each part is and where the built one lies.
type Cache struct {
	Source string // the folder of this program's go.mod
	Dir    string // the cache folder
}

// Version returns the version of one of the scratch modules.
func (c Cache) Version(module string) (string, error) {
	if module == "" {
		return "own", nil
	}
	file := filepath.Join(c.Source, "modules", module, "go.mod")
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read versions: %w", err)
	}
	return versionIn(content, mainModule(module))
}

// Folder returns where the programs of a module lie.
func (c Cache) Folder(module string) (string, error) {
	version, err := c.Version(module)
	if err != nil {
		return "", err
	}
	if module == "" {
		module = "polder-e2e"
	}
	return filepath.Join(c.Dir, "bin", module+"-"+version), nil
}

// Path returns where a built part lies. Parts are named uniquely.
func (c Cache) Path(name string) (string, error) {
	for _, part := range All() {
		if part.Name == name {
			folder, err := c.Folder(part.Module)
			return filepath.Join(folder, name), err
		}
	}
	return "", fmt.Errorf("find part %s: not in the list", name)
}
