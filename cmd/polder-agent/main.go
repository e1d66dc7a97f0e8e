// Command polder-agent is the agent of one node.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/polder-net/polder/internal/agent"
	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/watch"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

// run returns the exit status: 0 stopped when told to, 1 could not go on, 2 wrong use.
func run(args []string, stderr io.Writer) int {
	f, err := parseFlags(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "polder-agent:", err)
		return 2
	}
	debug.SetGCPercent(garbage)
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: f.level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, f, log); err != nil {
		log.Error("polder-agent stops", "err", err)
		return 1
	}
	return 0
}

// garbage is how much of it there may be, in percent of what is in use, until it is collected. A limit in bytes would
// not do: where what is in use comes near it, as with 44,000 Services, the collector runs all the time, and changes wait
// for seconds.
const garbage = 50

func serve(ctx context.Context, f flags, log *slog.Logger) error {
	plugin, err := besideMe("polder-cni")
	if err != nil {
		return err
	}
	cfg := agent.Config{
		Node: f.node, Version: version, Options: f.options, Listen: f.listen,
		State: filepath.Dir(api.Socket), Pins: datapath.Dir,
		CNIBin: f.cniBin, CNINet: "/etc/cni/net.d", Plugin: plugin,
	}
	if f.manifests != "" {
		if cfg.Source, err = watch.Folder(f.manifests, log); err != nil {
			return err
		}
	} else {
		kube, err := watch.Kube(f.kubeconfig, f.node, version, f.options.Services, false, log)
		if err != nil {
			return err
		}
		cfg.Source = kube
		cfg.Tell = func(ctx context.Context, e agent.PodEvent) error {
			return kube.WarnPod(ctx, e.Pod, e.UID, e.Reason, e.Message)
		}
		if f.options.Routing != route.ModeOff { // else that is for the plugin that connects pods to say
			cfg.Ready = kube.MarkNetworkReady
		}
	}
	if f.options.Services && os.Getenv(packetsOnly) == "" {
		if cfg.Sockets, err = datapath.CgroupRoot(); err != nil {
			log.Warn("sockets are out of reach: Services are served packet by packet, which is slower", "err", err)
		}
	}
	a, err := agent.New(cfg, log)
	if err != nil {
		return err
	}
	log.Info("polder-agent starts", "node", f.node, "version", version)
	return a.Run(ctx)
}

// packetsOnly is an environment variable for tests: if set, no socket is looked at, and Services are served packet by
// packet, as for pods whose sockets are out of reach.
const packetsOnly = "POLDER_TEST_PACKETS_ONLY"

// besideMe finds a program in the folder that this one is in.
func besideMe(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own program: %w", err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}
