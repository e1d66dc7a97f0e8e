package kubeproxy

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

func TestItServesWhatTheAPIServerTells(t *testing.T) {
	testnet.RequireRoot(t)
	program, err := Program()
	if err != nil {
		t.Skip(err)
	}
	w, err := rig.Routed(rig.Options{Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	node := w.Nodes[0]
	var l net.Listener
	if err := rig.In(node.NS, func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	api := apiserver.New()
	go api.Serve(l)
	defer api.Close()
	api.Put(apiserver.Nodes, objects.NewNode("node-1", node.Addr, netip.MustParsePrefix("10.244.1.0/24")))
	objects.Content{Size: objects.Size{Services: 20, Endpoints: 3}}.Put(api)
	p, err := Start(program, node, "node-1", "http://"+l.Addr().String(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	took, err := p.WaitSynced(ctx)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.log.String())
	}
	if n, err := p.Services(); n != 20 || err != nil {
		t.Errorf("%d Services in its table, want 20 (%v) after %s\n%s", n, err, took, p.log.String())
	}
}
