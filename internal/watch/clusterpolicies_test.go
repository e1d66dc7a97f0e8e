package watch

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// clusterPolicy writes the manifest of a ClusterNetworkPolicy.
func clusterPolicy(spec string) string {
	return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: c}\nspec: " + spec + "\n"
}

// admin is the spec of a policy of all pods with one egress rule.
func admin(rule string) string {
	return "{tier: Admin, priority: 5, subject: {namespaces: {}}, egress: [" + rule + "]}"
}

func TestClusterPoliciesSayWhatTheySay(t *testing.T) {
	const all = "cluster policy c Admin 5 of {}/{}\n"
	for _, tc := range []struct{ name, spec, want string }{
		{"no rules", "{tier: Baseline, priority: 1000, subject: {namespaces: {matchLabels: {a: b}}}}", "cluster policy c Baseline 1000 of {a=b}/{}\n"},
		{"a subject of pods", "{tier: Admin, priority: 0, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}, ingress: [], egress: []}",
			"cluster policy c Admin 0 of {}/{a=b}\n"},
		{"ingress", "{tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{name: x, action: Pass, from: [{namespaces: {}}, {pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {}}}]}]}",
			all + " ingress pass x peers={}/{}{a=b}/{} ports=all\n"},
		{"egress", admin("{action: Deny, to: [{namespaces: {}}, {pods: {podSelector: {matchLabels: {a: b}}}}, {nodes: {}}, {networks: [10.1.0.0/8, '::/0']}]}"),
			all + " egress deny  peers={}/{}{}/{a=b}nodes{}[10.0.0.0/8-[]][::/0-[]] ports=all\n"},
		{"protocols", admin("{action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 65535}}}}, {sctp: {destinationPort: {number: 9}}}, {destinationNamedPort: http}]}"),
			all + " egress accept  peers={}/{} ports=[6 80-80][17 1-65535][132 9-9][0 http0-0]\n"},
		{"an order of rules", admin("{action: Accept, name: a, to: [{namespaces: {}}]}, {action: Deny, name: b, to: [{namespaces: {}}]}"),
			all + " egress accept a peers={}/{} ports=all\n egress deny b peers={}/{} ports=all\n"},

		// What cannot be read: of what accepts.
		{"a peer of a later version, accepted", admin("{action: Accept, to: [{namespaces: {}}, {}]}"),
			all + " egress accept  peers= ports=\nproblem: egress rule 1: peer 2: has not exactly one field that this version of Polder knows: the rule matches nothing\n"},
		{"a peer with two fields, accepted", admin("{action: Accept, to: [{namespaces: {}, networks: [10.0.0.0/8]}]}"),
			all + " egress accept  peers= ports=\nproblem: egress rule 1: peer 1: has not exactly one field that this version of Polder knows: the rule matches nothing\n"},
		{"no peers, accepted", admin("{action: Accept, to: []}"), all + " egress accept  peers= ports=all\nproblem: egress rule 1: it has no peers: it matches nothing\n"},
		{"networks, accepted", admin("{action: Accept, to: [{networks: [10.0.0.0/8, 10.0.0/8]}, {nodes: {}}]}"),
			all + " egress accept  peers=[10.0.0.0/8-[]]nodes{} ports=all\nproblem: egress rule 1: peer 1: \"10.0.0/8\" is not a CIDR: it matches nothing\n"},
		{"domain names, accepted", admin("{action: Accept, to: [{domainNames: [example.org]}, {nodes: {}}]}"),
			all + " egress accept  peers=nodes{} ports=all\nproblem: egress rule 1: peer 1: domainNames are not supported: it matches nothing\n"},
		{"ports, accepted", admin("{action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 65536}}}, {udp: {destinationPort: {range: {start: 9, end: 8}}}}, {destinationNamedPort: a_b}]}"),
			all + " egress accept  peers={}/{} ports=\n" +
				"problem: egress rule 1: protocol 1: 65536 is not a port: it matches nothing\n" +
				"problem: egress rule 1: protocol 2: ports 9 to 8: the last is before the first: it matches nothing\n" +
				"problem: egress rule 1: protocol 3: \"a_b\" is neither a port's name nor a number: it matches nothing\n"},
		{"protocols of a later version, accepted", admin("{action: Accept, to: [{namespaces: {}}], protocols: [{}, {tcp: {}}, {tcp: {destinationPort: {}}}, {udp: {destinationPort: {number: 8, range: {start: 8, end: 9}}}}]}"),
			all + " egress accept  peers= ports=\n" +
				"problem: egress rule 1: protocol 1: has not exactly one field that this version of Polder knows: the rule matches nothing\n" +
				"problem: egress rule 1: protocol 2: has not exactly one field that this version of Polder knows: the rule matches nothing\n" +
				"problem: egress rule 1: protocol 3: has not exactly one field that this version of Polder knows: the rule matches nothing\n" +
				"problem: egress rule 1: protocol 4: has not exactly one field that this version of Polder knows: the rule matches nothing\n"},
		{"an empty list of protocols", admin("{action: Accept, to: [{namespaces: {}}], protocols: []}"),
			all + " egress accept  peers={}/{} ports=\nproblem: egress rule 1: its list of protocols is empty, which is not the same as none: it matches nothing\n"},
		{"a port's name with a network", admin("{action: Accept, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]}"),
			all + " egress accept  peers=[10.0.0.0/8-[]] ports=\nproblem: egress rule 1: protocol 1: destinationNamedPort does not go with networks, nodes and domainNames: it matches nothing\n"},

		// Of what denies or passes.
		{"a peer of a later version, denied", admin("{action: Deny, to: [{nodes: {}}, {}], protocols: [{tcp: {destinationPort: {number: 1}}}]}"),
			all + " egress deny  peers=all ports=all\nproblem: egress rule 1: peer 2: has not exactly one field that this version of Polder knows: the rule denies everything\n"},
		{"a peer of a later version, passed", admin("{name: x, action: Pass, to: [{}]}"),
			all + " egress deny x peers=all ports=all\nproblem: egress rule 1: peer 1: has not exactly one field that this version of Polder knows: the rule denies everything\n"},
		{"a network, denied", admin("{action: Deny, to: [{networks: [10.0.0/8]}]}"),
			all + " egress deny  peers=all ports=all\nproblem: egress rule 1: peer 1: \"10.0.0/8\" is not a CIDR: the rule denies everything\n"},
		{"a selector, denied", admin("{action: Deny, to: [{nodes: {matchExpressions: [{key: a, operator: Is}]}}]}"),
			all + " egress deny  peers=all ports=all\nproblem: egress rule 1: peer 1: \"Is\" is not a valid label selector operator: the rule denies everything\n"},
		{"domain names, passed", admin("{action: Pass, to: [{domainNames: [example.org]}]}"),
			all + " egress deny  peers=all ports=all\nproblem: egress rule 1: peer 1: domainNames are not supported: the rule denies everything\n"},
		{"a protocol, denied", admin("{action: Deny, to: [{nodes: {}}], protocols: [{}]}"),
			all + " egress deny  peers=all ports=all\nproblem: egress rule 1: protocol 1: has not exactly one field that this version of Polder knows: the rule denies everything\n"},
		{"an action", admin("{action: Log, to: [{nodes: {}}]}"),
			all + " egress deny  peers=all ports=all\nproblem: egress rule 1: action \"Log\" is none of Accept, Deny and Pass: the rule denies everything\n"},

		// Of the policy.
		{"a tier", "{tier: Developer, priority: 5, subject: {namespaces: {matchLabels: {a: b}}}, ingress: [{action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}], egress: [{action: Pass, to: [{nodes: {}}]}]}",
			"cluster policy c Admin 0 of {a=b}/{}\n ingress accept  peers= ports=\n ingress deny  peers={}/{} ports=all\n egress pass  peers= ports=\n" +
				"problem: tier \"Developer\" is none of Admin and Baseline: the policy counts as the first of Admin, and only what it denies does\n"},
		{"a priority", "{tier: Baseline, priority: 1001, subject: {namespaces: {}}, egress: [{action: Accept, to: [{nodes: {}}]}]}",
			"cluster policy c Baseline 0 of {}/{}\n egress accept  peers= ports=\nproblem: priority 1001 is not 0 to 1000: the policy counts as the first of its tier, and only what it denies does\n"},
		{"no subject", "{tier: Admin, priority: 5, subject: {}, egress: [{action: Accept, to: [{nodes: {}}]}, {action: Deny, to: [{nodes: {}}]}]}",
			all + " egress accept  peers= ports=\n egress deny  peers=nodes{} ports=all\nproblem: subject has not exactly one of namespaces and pods: it is about all pods, and only what it denies counts\n"},
		{"two subjects", "{tier: Admin, priority: 5, subject: {namespaces: {}, pods: {podSelector: {}}}}",
			all + "problem: subject has not exactly one of namespaces and pods: it is about all pods, and only what it denies counts\n"},
		{"a subject's selector", "{tier: Admin, priority: 5, subject: {pods: {namespaceSelector: {matchLabels: {a: b}}, podSelector: {matchExpressions: [{key: a, operator: Is}]}}}, egress: [{action: Pass, to: [{nodes: {}}]}]}",
			"cluster policy c Admin 5 of {a=b}/{}\n egress pass  peers= ports=\nproblem: subject: podSelector: \"Is\" is not a valid label selector operator: it is about all pods of the namespaces, and only what it denies counts\n"},

		// What an API server would miss.
		{"no priority", "{tier: Baseline, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]}",
			"cluster policy c Baseline 0 of {}/{}\n ingress accept  peers= ports=\n ingress deny  peers={}/{} ports=all\n" +
				"problem: priority is missing: the policy counts as the first of its tier, and only what it denies does\n"},
		{"a priority that is null", "{tier: Admin, priority: null, subject: {namespaces: {}}}",
			"cluster policy c Admin 0 of {}/{}\nproblem: priority is missing: the policy counts as the first of its tier, and only what it denies does\n"},
		{"a subject that does not say which pods", "{tier: Admin, priority: 5, subject: {pods: {namespaceSelector: {matchLabels: {a: b}}}}, egress: [{action: Accept, to: [{nodes: {}}]}]}",
			"cluster policy c Admin 5 of {a=b}/{}\n egress accept  peers= ports=\nproblem: subject: podSelector: it is missing: it is about all pods of the namespaces, and only what it denies counts\n"},
		{"peers that do not say which pods, accepted", "{tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}, {pods: {podSelector: null}}]}], egress: [{action: Accept, to: [{pods: {}}]}]}",
			all + " ingress accept  peers={}/{} ports=all\n egress accept  peers= ports=all\nproblem: egress rule 1: peer 1: podSelector: it is missing: it matches nothing\n" +
				"problem: ingress rule 1: peer 2: podSelector: it is missing: it matches nothing\n"},
		{"a peer that does not say which pods, denied", admin("{action: Deny, to: [{pods: {namespaceSelector: {}}}]}"),
			all + " egress deny  peers=all ports=all\nproblem: egress rule 1: peer 1: podSelector: it is missing: the rule denies everything\n"},
		{"ranges of one port, or without an end", admin("{action: Accept, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {range: {start: 8, end: 8}}}}, {tcp: {destinationPort: {range: {start: 8}}}}]}"),
			all + " egress accept  peers=nodes{} ports=\nproblem: egress rule 1: protocol 1: ports 8 to 8: the last is not behind the first (of one port, say the number): it matches nothing\n" +
				"problem: egress rule 1: protocol 2: 0 is not a port: it matches nothing\n"},

		// Of the manifest.
		{"a slip of the pen", admin("{action: Accept, to: [{namespaces: {}}], protcols: [{tcp: {destinationPort: {number: 80}}}]}"),
			"cluster policy c Admin 0 of {}/{}\n egress deny  peers=all ports=all\nproblem: unknown field \"spec.egress[0].protcols\"\n" +
				"problem: until it can be read, everything is denied in the directions that it has rules for\n"},
		{"a field of the wrong type", "{tier: Admin, priority: high, subject: {namespaces: {matchLabels: {a: b}}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
			"cluster policy c Admin 0 of {a=b}/{}\n ingress deny  peers=all ports=all\nproblem: read ClusterNetworkPolicy: json: cannot unmarshal string into Go struct field ClusterNetworkPolicySpec.spec.priority of type int32\n" +
				"problem: until it can be read, everything is denied in the directions that it has rules for\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(sortedLines(tc.want), sortedLines(said(t, clusterPolicy(tc.spec)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
