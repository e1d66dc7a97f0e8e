package lab_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

func TestSlicesFollowPods(t *testing.T) {
	r := servicesRig{labtest.Up(t, &programs, lab.Options{Nodes: 2, Zones: 2}), t}
	s := r.service(lab.ServiceOptions{Name: "web", Type: "LoadBalancer"})
	file := filepath.Join(r.Manifests(), "endpointslices-web.default.yaml")

	r.awaitEndpoints("web", 0, 0)
	pods := r.backends("web", "node-1", "node-2")
	r.awaitEndpoints("web", 2, 2)
	for i, p := range pods {
		for _, a := range p.Addresses {
			if text := readFile(file); !strings.Contains(text, "- "+a.String()+"\n") || !strings.Contains(text, fmt.Sprintf("zone: zone-%d\n", i+1)) {
				t.Errorf("no %s, or not its zone, in\n%s", a, text)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.SetPodReady("web-1", false))
	r.awaitEndpoints("web", 2, 1)
	must(r.SetPodReady("web-1", true))
	r.awaitEndpoints("web", 2, 2)
	must(r.TerminatePod("web-2"))
	r.awaitEndpoints("web", 2, 1)
	if text := readFile(file); !strings.Contains(text, "serving: true\n    terminating: true") {
		t.Errorf("no endpoint is serving and terminating:\n%s", text)
	}
	node, err := r.Node("node-1")
	must(err)
	if got := r.ask(node.Place, "tcp", netip.AddrPortFrom(pods[1].Addresses[0], backendPort), 1).who(); !slices.Equal(got, []string{"web-2"}) {
		t.Errorf("the pod that terminates does not serve: %q", got)
	}
	must(r.DeletePod(t.Context(), "web-2"))
	r.awaitEndpoints("web", 1, 1)
	if len(s.ClusterIPs) != 2 || len(s.LoadBalancerIPs) != 2 || s.Ports[0].NodePort == 0 || s.Ports[0].NodePort == s.Ports[1].NodePort {
		t.Errorf("the Service is %+v", s)
	}
	must(r.DeleteService("web"))
	eventually(t, 10*time.Second, "the slices are gone", func() error {
		if _, err := os.Stat(file); err == nil {
			return fmt.Errorf("%s is there", file)
		}
		return nil
	})
}

func TestServicesThatAreEditedByHandAreFollowed(t *testing.T) {
	r := servicesRig{labtest.Up(t, &programs, lab.Options{Nodes: 1}), t}
	r.backends("web", "node-1")
	r.backends("api", "node-1", "node-1")
	file := filepath.Join(r.Manifests(), "mine.yaml")
	const text = "kind: Service\napiVersion: v1\nmetadata: {name: mine}\nspec: {clusterIP: 10.96.3.3, selector: {app: %s}, ports: [{port: 80}]}\n"

	write(t, file, fmt.Sprintf(text, "web"))
	r.awaitEndpoints("mine", 1, 1)
	write(t, file, fmt.Sprintf(text, "api"))
	r.awaitEndpoints("mine", 2, 2)

	// What cannot be read counts as it last did; what is beside it is followed.
	write(t, file, "kind: Service\napiVersion: [")
	other := filepath.Join(r.Manifests(), "other.json")
	write(t, other, `{"kind":"List","apiVersion":"v1","items":[{"kind":"Service","apiVersion":"v1","metadata":{"name":"other"},`+
		`"spec":{"clusterIP":"None","selector":{"app":"web"},"ports":[{"port":80}]}}]}`)
	r.awaitEndpoints("other", 1, 1)
	if text := readFile(filepath.Join(r.Manifests(), "endpointslices-mine.default.yaml")); strings.Count(text, "name: api-") != 2 {
		t.Errorf("the slices of the Service that cannot be read are now\n%s", text)
	}

	// Slices come back, and addresses that others have are not given out.
	slices := filepath.Join(r.Manifests(), "endpointslices-other.default.yaml")
	if err := os.Remove(slices); err != nil {
		t.Fatal(err)
	}
	r.awaitEndpoints("other", 1, 1)
	write(t, file, fmt.Sprintf(text, "web"))
	if _, err := r.CreateService(lab.ServiceOptions{Name: "second", Ports: []lab.ServicePort{{Port: 80}},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.3.3")}}); err == nil {
		t.Error("an address was given out twice")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "its slices are gone", func() error {
		if left, _ := filepath.Glob(filepath.Join(r.Manifests(), "endpointslices-mine*")); len(left) > 0 {
			return fmt.Errorf("%q are there", left)
		}
		return nil
	})
}

func TestSlicesOfOthersAreLeftAlone(t *testing.T) {
	r := servicesRig{labtest.Up(t, &programs, lab.Options{Nodes: 1}), t}
	r.service(lab.ServiceOptions{Name: "web", Selector: map[string]string{}})
	file := filepath.Join(r.Manifests(), "endpointslices-web.default.yaml")
	const text = "kind: EndpointSlice\napiVersion: discovery.k8s.io/v1\nmetadata: {name: a, labels: {kubernetes.io/service-name: web}}\n" +
		"addressType: IPv4\nendpoints: [{addresses: [192.168.1.1]}]\n"
	write(t, file, text)
	r.awaitEndpoints("web", 1, 1)
	r.service(lab.ServiceOptions{Name: "api"}) // the controller has been around when this one has slices
	eventually(t, 10*time.Second, "api has slices", func() error {
		_, err := os.Stat(filepath.Join(r.Manifests(), "endpointslices-api.default.yaml"))
		return err
	})
	if readFile(file) != text {
		t.Errorf("it is now\n%s", readFile(file))
	}
}

func TestServingPodsSayWhoTheyAreAndWhomTheySee(t *testing.T) {
	r := servicesRig{labtest.Up(t, &programs, lab.Options{Nodes: 2}), t}
	server := r.backends("web", "node-1")[0]
	client := create(t, r.Cluster, lab.PodOptions{Name: "client", Node: "node-2"})
	node, err := r.Node("node-2")
	if err != nil {
		t.Fatal(err)
	}
	for i, to := range server.Addresses {
		at := netip.AddrPortFrom(to, backendPort)
		for _, network := range []string{"tcp", "udp"} {
			for place, own := range map[lab.Place]netip.Addr{client.Place: client.Addresses[i], node.Place: node.Cluster().Addresses[i]} {
				for _, a := range []answers{r.ask(place, network, at, 3), r.askPackets(place, network, at, 3)} {
					if a.names()["web-1"] != 3 || len(a.rewritten()) > 0 || len(a.failures()) > 0 || !slices.Equal(a.seen(), []netip.Addr{own}) {
						t.Errorf("%s by %s: %+v", place.Name, network, a)
					}
				}
			}
		}
	}
	out, err := client.Command(t.Context(), "sh", "-c", fmt.Sprintf("printf 'GET / HTTP/1.1\\r\\n\\r\\n' | nc -N %s %d", server.Addresses[0], backendPort)).CombinedOutput()
	if want := "HTTP/1.1 200 OK\r\n"; err == nil && (!strings.HasPrefix(string(out), want) || !strings.Contains(string(out), "web-1 "+client.Addresses[0].String())) {
		t.Errorf("HTTP is answered by %q", out)
	}
}

func TestTheClientOutsideReachesNodesAndNoPods(t *testing.T) {
	for _, racks := range []int{1, 2} {
		t.Run(fmt.Sprintf("racks %d", racks), func(t *testing.T) {
			r := servicesRig{labtest.Up(t, &programs, lab.Options{Nodes: 2, Racks: racks}), t}
			pod := r.backends("web", "node-1")[0]
			for _, n := range r.Nodes() {
				for i, a := range n.Cluster().Addresses {
					got := answerAt(t, n.Place, a, func(to netip.AddrPort) answers { return r.ask(r.Outside(), "tcp", to, 2) })
					if want := []netip.Addr{r.OutsideAddresses()[i]}; !slices.Equal(got.seen(), want) || len(got.failures()) > 0 {
						t.Errorf("%s at %s: %+v", n.Name, a, got)
					}
				}
			}
			if got := r.ask(r.Outside(), "tcp", netip.AddrPortFrom(pod.Addresses[0], backendPort), 1); len(got.failures()) == 0 {
				t.Errorf("a pod answers: %+v", got)
			}
			vip := netip.MustParseAddr("192.0.2.99")
			for _, n := range r.Nodes() {
				if err := r.RouteOutside(netip.PrefixFrom(vip, 32), n); err != nil {
					t.Fatal(err)
				}
				if out, err := n.Command(t.Context(), "ip", "address", "replace", vip.String()+"/32", "dev", "lo").CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				got := answerAt(t, n.Place, vip, func(to netip.AddrPort) answers { return r.ask(r.Outside(), "udp", to, 2) })
				if !slices.Equal(got.who(), []string{n.Name}) {
					t.Errorf("what is routed to %s: %+v", n.Name, got)
				}
			}
		})
	}
}

// answerAt runs the program of a serving pod at a place, and asks it.
func answerAt(t *testing.T, at lab.Place, addr netip.Addr, ask func(netip.AddrPort) answers) answers {
	t.Helper()
	const port = 9090
	server := at.Command(t.Context(), filepath.Join(programs.Folder(t), "polder"), "lab", "hold-pod", at.Name, "--serve", fmt.Sprint(port))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	here := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	eventually(t, 10*time.Second, "the program serves", func() error {
		return at.Do(func() error {
			if a := lab.Ask("tcp", here, time.Second); a.Error != "" {
				return fmt.Errorf("no answer: %s", a.Error)
			}
			return nil
		})
	})
	return ask(netip.AddrPortFrom(addr, port))
}

func TestDownLeavesNothingOfALabWithServices(t *testing.T) {
	r := servicesRig{labtest.Up(t, &programs, lab.Options{Nodes: 2, Racks: 2, Zones: 2}), t}
	r.backends("web", "node-1", "node-2")
	r.service(lab.ServiceOptions{Name: "web", Type: "NodePort"})
	r.awaitEndpoints("web", 2, 2)
	tr := tracesOf(t, r.State())
	if len(tr.processes) < 8 { // fabric, client outside, two nodes with an agent each, two pods
		t.Fatalf("the lab has %d processes", len(tr.processes))
	}
	for _, pid := range []int{r.Fabric().PID(), r.Outside().PID()} {
		if p, err := os.FindProcess(pid); err != nil || p.Kill() != nil {
			t.Fatalf("kill process %d: %v", pid, err)
		}
	}
	if err := r.Down(); err != nil {
		t.Fatal(err)
	}
	tr.mustBeGone(t)
}
