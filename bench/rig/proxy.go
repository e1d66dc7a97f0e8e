package rig

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

// Services and Backends are the size of the table that B2 has.
const (
	Services = 1000
	Backends = 3 // of each
)

// loadProxy puts a table like that of kube-proxy's nftables mode into the current namespace: the same chains, hooks,
// priorities and maps (pkg/proxy/nftables/proxier.go of Kubernetes 1.33 on), and so connection tracking.
func loadProxy() error { return loadTable("proxy table", proxyTable(Services, Backends)) }

func loadTable(name, text string) error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return fmt.Errorf("load %s: %w: install nftables", name, err)
	}
	cmd := exec.Command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// The part of the table that does not depend on the services.
const proxyChains = `
	set cluster-ips { type ipv4_addr; }
	set nodeport-ips { type ipv4_addr; elements = { 172.30.0.11, 172.30.0.12 } }
	map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
	map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
	map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }
	chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
	chain masquerading {
		meta mark and 0x4000 == 0 return
		meta mark set meta mark xor 0x4000
		masquerade fully-random
	}
	chain reject-chain { reject; }
	chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
	chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
	chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
	chain cluster-ips-check { ip daddr @cluster-ips reject; }
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain filter-prerouting { type filter hook prerouting priority dstnat - 10; ct state new jump firewall-check; }
	chain filter-input { type filter hook input priority -110;
		ct state new jump nodeport-endpoints-check
		ct state new jump service-endpoints-check
	}
	chain filter-forward { type filter hook forward priority -110;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain filter-output { type filter hook output priority -110;
		ct state new jump service-endpoints-check
		ct state new jump firewall-check
	}
	chain filter-output-post-dnat { type filter hook output priority -90; ct state new jump cluster-ips-check; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
`

func proxyTable(services, backends int) string {
	var chains, ips, verdicts strings.Builder
	for s := range services {
		vip := fmt.Sprintf("10.96.%d.%d", s/250, s%250+1)
		var choices []string
		for b := range backends {
			backend := fmt.Sprintf("10.128.%d.%d", (s*backends+b)/250, (s*backends+b)%250+1)
			fmt.Fprintf(&chains, "\tchain endpoint-%d-%d { ip saddr %s jump mark-for-masquerade; meta l4proto tcp dnat to %s:8080; }\n",
				s, b, backend, backend)
			choices = append(choices, fmt.Sprintf("%d : goto endpoint-%d-%d", b, s, b))
		}
		fmt.Fprintf(&chains, "\tchain service-%d { ip daddr %s tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade; numgen random mod %d vmap { %s }; }\n",
			s, vip, backends, strings.Join(choices, ", "))
		fmt.Fprintf(&ips, "%s, ", vip)
		fmt.Fprintf(&verdicts, "%s . tcp . 80 : goto service-%d, ", vip, s)
	}
	return "table ip kube-proxy {" + proxyChains + chains.String() + "}\n" +
		"add element ip kube-proxy cluster-ips { " + ips.String() + "}\n" +
		"add element ip kube-proxy service-ips { " + verdicts.String() + "}\n"
}
