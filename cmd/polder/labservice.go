package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/polder-net/polder/lab"
)

func labServiceCommands() []command {
	return []command{
		{name: "create", short: "create a Service", run: labServiceCreate},
		{name: "delete", short: "delete a Service", run: labServiceDelete},
		{name: "list", short: "the lab's Services", run: labServiceList},
	}
}

// labService is a Service in `polder lab service list -o json`.
type labService struct {
	Namespace       string       `json:"namespace"`
	Name            string       `json:"name"`
	Type            string       `json:"type"`
	ClusterIPs      []netip.Addr `json:"clusterIPs"`
	ExternalIPs     []netip.Addr `json:"externalIPs,omitempty"`
	LoadBalancerIPs []netip.Addr `json:"loadBalancerIPs,omitempty"`
	Ports           []labPort    `json:"ports"`
	Endpoints       int          `json:"endpoints"`
	Ready           int          `json:"ready"`
	File            string       `json:"file"`
}

type labPort struct {
	Port     uint16 `json:"port"`
	Target   string `json:"target"`
	Protocol string `json:"protocol"`
	NodePort uint16 `json:"nodePort,omitempty"`
}

func labServiceCreate(e env, args []string) error {
	f := newFlags("lab service create", "NAME --port PORT[:TARGET][/PROTOCOL]", `
Creates a Service: writes its manifest, with cluster IPs, node ports and load balancer addresses that no other has. Its
EndpointSlices follow the pods that it selects. A manifest that you write into the same folder is as good.`)
	state := stateFlag(f)
	o := serviceFlags(f)
	words, err := f.parse(e, args, "NAME")
	if err != nil {
		return err
	}
	if len(o.Ports) == 0 {
		return usagef("lab service create: --port is missing: see 'polder lab service create --help'")
	}
	o.Name = words[0]
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	s, err := c.CreateService(*o)
	if err != nil {
		return err
	}
	row := reportService(s)
	fmt.Fprintf(e.stdout, "%s: %s, ports %s\n", s.Name, strings.ReplaceAll(row.addresses(), "\n", " "), strings.ReplaceAll(row.ports(), "\n", " "))
	return nil
}

// serviceFlags say which Service to create.
func serviceFlags(f *flags) *lab.ServiceOptions {
	o := &lab.ServiceOptions{}
	f.Func("port", "a `port`, say 80, 80:8080 or 53:5353/udp; may be given several times", func(text string) error {
		p, err := lab.ParseServicePort(text)
		o.Ports = append(o.Ports, p)
		return err
	})
	f.Func("node-port", "the node `port` of the last --port before it (default: any that is free)", func(text string) error {
		p, err := lab.ParseServicePort(text)
		if err != nil || len(o.Ports) == 0 {
			return fmt.Errorf("want a number, behind the --port that it is for")
		}
		o.Ports[len(o.Ports)-1].NodePort = p.Port
		return nil
	})
	f.Func("selector", "select pods with `labels` a=b,c=d; \"\" selects none (default: app=NAME)", func(text string) error {
		o.Selector = map[string]string{}
		if text == "" {
			return nil
		}
		return addLabels(o.Selector, text)
	})
	f.StringVar(&o.Type, "type", "ClusterIP", "this `type`: ClusterIP, NodePort or LoadBalancer")
	f.StringVar(&o.ExternalTrafficPolicy, "external-traffic-policy", "", "this `policy`: Cluster or Local (default Cluster)")
	f.StringVar(&o.InternalTrafficPolicy, "internal-traffic-policy", "", "this `policy`: Cluster or Local (default Cluster)")
	f.IntVar(&o.Affinity, "affinity", 0, "a client stays with its backend for so many `seconds`")
	f.Func("cluster-ip", "these `addresses`, with a comma in between (default: one of each family)", func(text string) error {
		for part := range strings.SplitSeq(text, ",") {
			a, err := netip.ParseAddr(part)
			if err != nil {
				return err
			}
			o.ClusterIPs = append(o.ClusterIPs, a)
		}
		return nil
	})
	return o
}

func labServiceDelete(e env, args []string) error {
	f := newFlags("lab service delete", "NAME", "Deletes a Service that 'polder lab service create' made. Its EndpointSlices follow.")
	state := stateFlag(f)
	words, err := f.parse(e, args, "NAME")
	if err != nil {
		return err
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	return c.DeleteService(words[0])
}

func labServiceList(e env, args []string) error {
	f := newFlags("lab service list", "[-o json]", "Lists the lab's Services, whoever wrote them, and how many of the pods that they select are ready.")
	output := f.String("o", "", "print `json`, for programs, or text")
	state := stateFlag(f)
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	if err := checkOutput("lab service list", *output); err != nil {
		return err
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	list, err := reportServices(c)
	if err != nil {
		return err
	}
	if *output == "json" {
		return writeIndented(e.stdout, append([]labService{}, list...))
	}
	if len(list) == 0 {
		fmt.Fprintln(e.stdout, "no Services: see 'polder lab service create --help'")
		return nil
	}
	writeLabServices(e.stdout, list)
	return nil
}

func reportServices(c *lab.Cluster) ([]labService, error) {
	services, err := c.Services()
	var list []labService
	for _, s := range services {
		list = append(list, reportService(s))
	}
	return list, err
}

func reportService(s lab.Service) labService {
	row := labService{
		s.Namespace, s.Name, s.Type, s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs, nil, s.Endpoints, s.Ready, s.File,
	}
	for _, p := range s.Ports {
		row.Ports = append(row.Ports, labPort{p.Port, p.Target, p.Protocol, p.NodePort})
	}
	return row
}

func writeLabServices(w io.Writer, list []labService) {
	var t textTable
	t.add("SERVICE", "TYPE", "ADDRESSES", "PORTS", "READY")
	for _, s := range list {
		name := s.Name
		if s.Namespace != "default" {
			name = s.Namespace + "/" + name
		}
		t.add(name, s.Type, s.addresses(), s.ports(), fmt.Sprintf("%d of %d", s.Ready, s.Endpoints))
	}
	t.write(w)
}

// addresses are all that clients may use, one below the other.
func (s labService) addresses() string {
	return stacked(append(append(append([]netip.Addr{}, s.ClusterIPs...), s.LoadBalancerIPs...), s.ExternalIPs...))
}

// ports say where a port leads, and which node port does, too: 80→8080/TCP, node port 30000.
func (s labService) ports() string {
	var lines []string
	for _, p := range s.Ports {
		line := fmt.Sprintf("%d→%s/%s", p.Port, p.Target, p.Protocol)
		if p.NodePort != 0 {
			line += fmt.Sprintf(", node port %d", p.NodePort)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
