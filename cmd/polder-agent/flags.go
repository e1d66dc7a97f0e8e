package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
)

// flags are all there is to set. Another needs a decision record (docs/adr/0017-a-tenth-flag.md).
type flags struct {
	node       string
	manifests  string
	kubeconfig string
	options    desired.Options
	cniBin     string
	listen     string
	level      slog.Level
}

const usage = `polder-agent connects this node's pods to the cluster's flat network.

It reads the cluster from the Kubernetes API (in-cluster, or --kubeconfig), or from
a folder of Kubernetes manifests (--manifests). Nothing needs to be set besides.

Flags:
`

func parseFlags(args []string, stderr io.Writer) (flags, error) {
	f := flags{options: desired.Options{Routing: route.ModeAuto, Services: true, Policies: true}}
	fs := flag.NewFlagSet("polder-agent", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&f.node, "node", defaultNode(), "this node's `name` in the cluster; default: $NODE_NAME, else the host's name")
	fs.StringVar(&f.manifests, "manifests", "", "read the cluster from this `folder` of Kubernetes manifests")
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "reach the API server as this `file` says; default: as a pod of the cluster")
	fs.Func("routing", "how pods of other nodes are reached: `mode` auto, native, tunnel, or off: another CNI plugin connects pods (default auto: native on-link, else tunnel)",
		func(s string) error { return parseRouting(s, &f.options.Routing) })
	fs.Func("never-masquerade", "`prefixes`, comma-separated, that pods reach by their own address besides the cluster's own",
		func(s string) error { return parsePrefixes(s, &f.options.NeverMasquerade) })
	fs.Func("services", "serve Services, as kube-proxy does: `mode` on, off, or external-ips: on, and honour spec.externalIPs (default on)",
		func(s string) error { return parseServices(s, &f.options) })
	fs.Func("policies", "isolate pods as NetworkPolicies and ClusterNetworkPolicies say: `mode` on or off (default on)",
		func(s string) error { return parsePolicies(s, &f.options.Policies) })
	fs.StringVar(&f.cniBin, "cni-bin", "/opt/cni/bin", "install the CNI plugin in this `folder`; empty: do not")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:9876", "`address` of /healthz, /readyz and /metrics; empty: none")
	fs.TextVar(&f.level, "log-level", slog.LevelInfo, "`level`: debug, info, warn or error")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stderr, usage)
			fs.SetOutput(stderr)
			fs.PrintDefaults()
		}
		return f, err
	}
	return f, f.check(fs.Args())
}

func (f flags) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case f.node == "":
		return errors.New("--node is empty, and so are $NODE_NAME and the host's name")
	case f.manifests != "" && f.kubeconfig != "":
		return errors.New("--manifests and --kubeconfig exclude each other")
	}
	return nil
}

func defaultNode() string {
	if name := os.Getenv("NODE_NAME"); name != "" {
		return name
	}
	name, _ := os.Hostname()
	return strings.ToLower(name)
}

func parseRouting(s string, mode *route.Mode) error {
	switch m := route.Mode(s); m {
	case route.ModeAuto, route.ModeNative, route.ModeTunnel, route.ModeOff:
		*mode = m
		return nil
	}
	return errors.New("want auto, native, tunnel or off")
}

func parseServices(s string, o *desired.Options) error {
	switch s {
	case "on", "off", "external-ips":
		o.Services, o.ExternalIPs = s != "off", s == "external-ips"
		return nil
	}
	return errors.New("want on, off or external-ips")
}

func parsePolicies(s string, on *bool) error {
	if s != "on" && s != "off" {
		return errors.New("want on or off")
	}
	*on = s == "on"
	return nil
}

func parsePrefixes(s string, prefixes *[]netip.Prefix) error {
	for _, text := range strings.Split(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("%q is not a prefix such as 10.0.0.0/8", text)
		}
		*prefixes = append(*prefixes, p.Masked())
	}
	return nil
}
