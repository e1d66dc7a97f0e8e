package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

const guardedPort = 8080

// webPolicy lets peer to web, and nobody else.
const webPolicy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: peer}}}], ports: [{port: 8080}]}]
`

// connects says how a connection from one place to an address goes.
func connects(from place, to netip.Addr, wait time.Duration) error {
	return from(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(to, guardedPort).String(), wait)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// TestPoliciesAloneBehindAnotherPlugin has the reference plugins connect pods, and Polder judge what they send.
func TestPoliciesAloneBehindAnotherPlugin(t *testing.T) {
	folder := references(t)
	for name, plugin := range map[string]string{
		"ptp":    `{"type":"ptp","ipMasq":false,"ipam":{"type":"polder-ipam"}}`,
		"bridge": `{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"polder-ipam"}}`,
	} {
		for _, services := range []string{"off", "on"} {
			t.Run(name+", services "+services, func(t *testing.T) {
				c := labtest.Up(t, &programs, lab.Options{Nodes: 1, AgentArgs: []string{"--routing", "off", "--services", services}, Plugins: folder,
					Network: fmt.Sprintf(`{"cniVersion":"1.1.0","name":"other","plugins":[%s,{"type":"polder-cni"}]}`, plugin)})
				node := c.Nodes()[0]
				path := filepath.Join(c.Manifests(), "policy.yaml")
				if err := os.WriteFile(path, []byte(webPolicy), 0o644); err != nil {
					t.Fatal(err)
				}
				pods := map[string]*lab.Pod{}
				for _, name := range []string{"web", "peer", "other"} {
					pods[name] = create(t, c, lab.PodOptions{Name: name, Node: node.Name, Serve: []uint16{guardedPort}})
				}
				verdicts := func(when string) {
					t.Helper()
					for _, to := range pods["web"].Addresses {
						for from, at := range map[string]place{"peer": pods["peer"].Do, "its node": node.Do, "itself": pods["web"].Do} {
							eventually(t, 5*time.Second, when+": from "+from, func() error { return connects(at, to, time.Second) })
						}
						if connects(pods["other"].Do, to, 300*time.Millisecond) == nil {
							t.Errorf("%s: what is denied passes to %s", when, to)
						}
					}
					for _, to := range pods["other"].Addresses { // and what comes back
						eventually(t, 5*time.Second, when+": from web to other", func() error { return connects(pods["web"].Do, to, time.Second) })
					}
				}
				verdicts("at first")
				if err := node.KillAgent(); err != nil {
					t.Fatal(err)
				}
				verdicts("without an agent")
				if err := node.WaitReady(t.Context()); err != nil {
					t.Fatal(err)
				}
				verdicts("with the next agent")
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				for _, to := range pods["web"].Addresses {
					eventually(t, 5*time.Second, "it is open", func() error { return connects(pods["other"].Do, to, time.Second) })
				}
				for name := range pods {
					if err := c.DeletePod(t.Context(), name); err != nil {
						t.Error(err)
					}
				}
				if r := reportOf(t, node); len(r.Pods) > 0 {
					t.Errorf("%+v", r.Pods)
				}
			})
		}
	}
}
