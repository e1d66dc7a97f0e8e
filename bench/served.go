package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/lab"
)

// served is a lab whose first node has Services that the benchmark itself writes into its maps, by the agent's own code:
// the agent, which set everything else up, has gone to sleep. So Services come and go in a second.
type served struct {
	*network
	datapath *datapath.Datapath
	table    *service.Table
	names    map[cluster.ServiceName]*cluster.ServiceObjects
}

// packetsOnly is the agent's: no socket is looked at.
const packetsOnly = "POLDER_TEST_PACKETS_ONLY"

// served builds one. With packets, it serves packets alone, not sockets.
func (w *worlds) served(ctx context.Context, packets bool) (*served, error) {
	name := "served by sockets"
	if packets {
		name = "served by packets"
		if err := os.Setenv(packetsOnly, "1"); err != nil { // for the lab's processes
			return nil, err
		}
		defer os.Unsetenv(packetsOnly)
	}
	if s, ok := w.serving[name]; ok {
		return s, nil
	}
	n, err := w.get(ctx, name, func(ctx context.Context) (*network, error) {
		folder := map[bool]string{false: "sockets", true: "packets"}[packets]
		c, err := w.bench.startLab(ctx, folder, lab.Options{Nodes: 2})
		if err != nil {
			return nil, err
		}
		n, err := populate(ctx, c)
		if err != nil {
			return nil, errors.Join(err, c.Down())
		}
		return n, nil
	})
	if err != nil {
		return nil, err
	}
	s := &served{network: n}
	if err := s.takeOver(ctx); err != nil {
		return nil, fmt.Errorf("take Services over: %w", err)
	}
	w.serving[name] = s
	return s, nil
}

// takeOver puts the agent of the first node to sleep, and opens its maps.
func (s *served) takeOver(ctx context.Context) error {
	node := s.lab.Nodes()[0]
	sleeper := filepath.Join(s.lab.State(), "sleeper")
	if err := os.WriteFile(sleeper, []byte("#!/bin/sh\nexec sleep infinity\n"), 0o755); err != nil {
		return err
	}
	agent := node.AgentPID()
	if err := errors.Join(node.SetAgent(sleeper), node.StopAgent()); err != nil {
		return err
	}
	for pid := agent; pid == agent || pid == 0; pid = node.AgentPID() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	var err error
	s.datapath, err = datapath.Open(fmt.Sprintf("/proc/%d/root%s", node.PID(), datapath.Dir), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	s.table = service.NewTable(service.Self{Node: node.Name})
	_, err = s.datapath.ResyncServices(s.table.Ports(), false, time.Now())
	return err
}

func (s *served) close() error { return s.datapath.Close() }

// live is a content whose endpoints are all at the near pod, where a load's server listens.
func (s *served) live(size objects.Size) objects.Content {
	return objects.Content{Size: size, Live: netip.AddrPortFrom(s.near.Addr, load.Port)}
}

// serve makes these the node's Services, and says how long it took to have them in the maps. Until the next call, the maps
// have what was before, too, as after every change.
func (s *served) serve(now map[cluster.ServiceName]*cluster.ServiceObjects) (time.Duration, error) {
	began := time.Now()
	for name := range s.names {
		if now[name] == nil {
			s.table.SetService(name, nil)
		}
	}
	for name, o := range now {
		s.table.SetService(name, o)
	}
	err := s.datapath.SyncServices(s.table.Changed(), time.Now())
	took := time.Since(began)
	s.names = maps.Clone(now)
	return took, err
}

// settle takes away what retired some time ago, and ends flows that are over.
func (s *served) settle() error {
	time.Sleep(1100 * time.Millisecond)
	err := s.datapath.SyncServices(nil, time.Now())
	_, sweep := s.datapath.SweepFlows()
	return errors.Join(err, sweep)
}

// via is the way by a content's Services.
func via(c objects.Content) load.Via {
	return load.Via{First: netip.AddrPortFrom(c.ClusterIP(0), objects.ServicePort), Count: c.Size.Services}
}
