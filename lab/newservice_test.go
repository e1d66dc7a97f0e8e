package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestServicesGetWhatNoOtherHas(t *testing.T) {
	var all []*corev1.Service
	for _, c := range []struct{ make, want string }{
		{"a ClusterIP 80", "10.96.0.17 fd00:96::11"},
		{"b NodePort 80 81", "10.96.0.18 fd00:96::12 30000 30001"},
		{"c LoadBalancer 80", "10.96.0.19 fd00:96::13 192.0.2.17 2001:db8:2::11 30002"},
		{"d LoadBalancer 80 local", "10.96.0.20 fd00:96::14 192.0.2.18 2001:db8:2::12 30003 health 30004"},
		{"e NodePort 80 80=30005", "10.96.0.21 fd00:96::15 30006 30005"},
		{"f NodePort 80=30005/UDP", "10.96.0.22 fd00:96::16 30005"},
		{"g NodePort 80=30005/TCP", "node port 30005/TCP is taken"},
		{"h NodePort 80=80/TCP", "node port 80: want 30000 to 32767"},
		{"i ClusterIP 80 ip=fd00:96::99", "fd00:96::99"},
		{"j LoadBalancer 80 ip=10.96.9.9", "10.96.9.9 192.0.2.19 30007"},
		{"k ClusterIP 80 ip=10.96.9.9", "cluster IP 10.96.9.9 is taken"},
		{"l ClusterIP 80 ip=10.97.0.1", "cluster IP 10.97.0.1 is not in"},
		{"m ClusterIP 80 ip=10.96.7.7 ip=10.96.7.8", "one cluster IP of each family"},
		{"a ClusterIP 80", "there is one of that name"},
		{"n ClusterIP", "it has no port"},
		{"o Headless 80", `type "Headless": want`},
		{"p ClusterIP 80 local", "only a Service with node ports"},
	} {
		o := serviceOptions(t, c.make)
		err := o.check()
		var s *corev1.Service
		if err == nil {
			s, err = newService(o, all)
		}
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error is %v, want %q", c.make, err, c.want)
			}
			continue
		}
		all = append(all, s)
		if got := given(s); got != c.want {
			t.Errorf("%s: has %q, want %q", c.make, got, c.want)
		}
	}
}

// serviceOptions reads "NAME TYPE PORT[=NODE PORT][/PROTOCOL]… [local] [ip=ADDRESS]…".
func serviceOptions(t *testing.T, text string) ServiceOptions {
	words := strings.Fields(text)
	o := ServiceOptions{Name: words[0], Type: words[1]}
	for _, w := range words[2:] {
		address, isAddress := strings.CutPrefix(w, "ip=")
		switch {
		case w == "local":
			o.ExternalTrafficPolicy = "Local"
		case isAddress:
			o.ClusterIPs = append(o.ClusterIPs, netip.MustParseAddr(address))
		default:
			var p ServicePort
			number, protocol, _ := strings.Cut(w, "/")
			p.Protocol = protocol
			if _, err := fmt.Sscanf(strings.Replace(number, "=", " ", 1)+" 0", "%d %d", &p.Port, &p.NodePort); err != nil {
				t.Fatal(err)
			}
			o.Ports = append(o.Ports, p)
		}
	}
	return o
}

// given are the addresses and node ports that a Service got.
func given(s *corev1.Service) string {
	words := append([]string{}, s.Spec.ClusterIPs...)
	for _, i := range s.Status.LoadBalancer.Ingress {
		words = append(words, i.IP)
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			words = append(words, fmt.Sprint(p.NodePort))
		}
	}
	if s.Spec.HealthCheckNodePort != 0 {
		words = append(words, "health", fmt.Sprint(s.Spec.HealthCheckNodePort))
	}
	return strings.Join(words, " ")
}

func TestPortsOfServicesAreReadAsTheyArePrinted(t *testing.T) {
	for _, text := range []string{"80", "80:8080", "53:5353/udp", "80:http", "1/sctp"} {
		if p, err := ParseServicePort(text); err != nil || p.String() != text {
			t.Errorf("%s is read as %s, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "0", "65536", "80:", "80/", "80/icmp", "x"} {
		if p, err := ParseServicePort(text); err == nil {
			t.Errorf("%q is read as %s", text, p)
		}
	}
}
