package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/bench/kubeproxy"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/lab"
)

// apiLab is a lab of one node whose agent reads an API server.
type apiLab struct {
	*lab.Cluster
	api    *apiserver.Server
	maps   *datapath.Served
	agent  int       // its process number
	began  time.Time // when its predecessor was told to end
	node   *lab.Node
	config string
}

// content is what an API server is told of.
type content interface{ Put(*apiserver.Server) }

// startAPILab builds a lab, and has its agent read a content from an API server from then on.
func (b *bench) startAPILab(ctx context.Context, c content) (l *apiLab, err error) {
	up, err := b.startLab(ctx, "api", lab.Options{Nodes: 1})
	if err != nil {
		return nil, err
	}
	l = &apiLab{Cluster: up, api: apiserver.New(), node: up.Nodes()[0]}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	end, err := endOf(l.node.Place)
	if err != nil {
		return l, err
	}
	defer end.NS.Close()
	url, err := listenIn(end, l.api)
	if err != nil {
		return l, err
	}
	me := l.node.Cluster()
	l.api.Put(apiserver.Nodes, objects.NewNode(me.Name, me.Addresses[0], me.PodCIDRs[0]))
	c.Put(l.api)
	l.config = filepath.Join(l.State(), "kubeconfig")
	if err = kubeproxy.Kubeconfig(l.config, url); err != nil {
		return l, err
	}
	if l.maps, err = datapath.OpenServed(fmt.Sprintf("/proc/%d/root%s", l.node.PID(), datapath.Dir)); err != nil {
		return l, err
	}
	return l, l.restart(ctx, b.programs)
}

// restart replaces the agent by one that reads the API server, and returns when its maps are to be filled.
func (l *apiLab) restart(ctx context.Context, programs string) error {
	wrapper := filepath.Join(l.State(), "agent-of-api")
	script := fmt.Sprintf("#!/bin/sh\nexec %s/polder-agent --node %s --kubeconfig %s\n", programs, l.node.Name, l.config)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return err
	}
	old := l.node.AgentPID()
	if err := errors.Join(l.node.SetAgent(wrapper), l.node.StopAgent()); err != nil {
		return err
	}
	for l.agent = old; l.agent == old || l.agent == 0; l.agent = l.node.AgentPID() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	l.began = time.Now()
	return nil
}

func (l *apiLab) close() error {
	errs := []error{l.api.Close()}
	if l.maps != nil {
		errs = append(errs, l.maps.Close())
	}
	return errors.Join(append(errs, l.Down())...)
}

// awaitAll returns when the maps have all Services.
func (l *apiLab) awaitAll(ctx context.Context, c objects.Content) error {
	for i := 0; i < c.Size.Services; {
		has, err := l.maps.Has(frontendOf(c, i))
		if err != nil {
			return err
		}
		if has {
			i++
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

func frontendOf(c objects.Content, i int) service.Frontend {
	return service.Frontend{Addr: c.ClusterIP(i), Port: objects.ServicePort, Protocol: cluster.TCP}
}
