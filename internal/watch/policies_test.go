package watch

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// policy writes the manifest of a NetworkPolicy.
func policy(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: ns}\nspec: " + spec + "\n"
}

// homelessText is what is said of the namespace of a policy that is alone.
const homelessText = "problem Namespace/ns: no manifest defines it, though NetworkPolicy p is in it: the policy counts, and namespaceSelectors see no label but its name\n"

// said is what a manifest of one policy says, without that its namespace has none, and problems without where they are.
func said(t *testing.T, manifest string) string {
	t.Helper()
	c := newContent()
	c.set("a.yaml", []byte(manifest))
	s := strings.ReplaceAll(text(c.snapshot()), homelessText, "")
	for _, kind := range []string{"NetworkPolicy/ns/p", "ClusterNetworkPolicy/c"} {
		s = strings.ReplaceAll(s, "problem "+kind+": a.yaml:1: ", "problem: ")
	}
	return s
}

func TestNetworkPoliciesSayWhatTheySay(t *testing.T) {
	const all = "policy ns/p of {}\n"
	in, out := " ingress isolated\n", " egress isolated\n"
	for _, tc := range []struct{ name, spec, want string }{
		{"no spec at all", "{}", all + in},
		{"no subject", "{ingress: []}", all + in},
		{"an empty subject", "{podSelector: {}}", all + in},
		{"a subject", "{podSelector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: NotIn, values: [d]}, {key: e, operator: Exists}]}}",
			"policy ns/p of {a=b,c notin (d),e}\n" + in},

		{"types by default: egress with egress rules", "{egress: [{}]}", all + in + out + " egress accept  peers=all ports=all\n"},
		{"types by default: no egress without", "{egress: []}", all + in},
		{"egress alone does not isolate ingress", "{policyTypes: [Egress], ingress: [{}]}", all + out},
		{"rules of a direction that is not isolated", "{policyTypes: [Ingress], egress: [{}]}", all + in},
		{"both", "{policyTypes: [Egress, Ingress]}", all + in + out},

		{"nothing in a rule", "{ingress: [{}]}", all + in + " ingress accept  peers=all ports=all\n"},
		{"empty lists in a rule", "{ingress: [{from: [], ports: []}]}", all + in + " ingress accept  peers=all ports=all\n"},
		{"nulls in a rule", "{ingress: [{from: null, ports: null}]}", all + in + " ingress accept  peers=all ports=all\n"},
		{"peers", "{ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}, {podSelector: {matchLabels: {a: b}}, namespaceSelector: {matchLabels: {c: d}}}]}]}",
			all + in + " ingress accept  peers={}{}/{}{c=d}/{a=b} ports=all\n"},
		{"blocks", "{egress: [{to: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.2.3.4/16, 10.0.0.0/8]}}, {ipBlock: {cidr: '::/0'}}, {ipBlock: {cidr: 0.0.0.0/0, except: [127.0.0.0/8]}}]}]}",
			all + in + out + " egress accept  peers=[10.0.0.0/8-[10.2.0.0/16 10.0.0.0/8]][::/0-[]][0.0.0.0/0-[127.0.0.0/8]] ports=all\n"},
		{"ports", "{ingress: [{ports: [{}, {protocol: UDP}, {port: 80}, {port: http, protocol: SCTP}, {port: 1, endPort: 65535}, {port: 7, endPort: 7}]}]}",
			all + in + " ingress accept  peers=all ports=[6 0-65535][17 0-65535][6 80-80][132 http0-0][6 1-65535][6 7-7]\n"},

		// What cannot be read.
		{"a type", "{policyTypes: [ingress]}", all + in + out + "problem: policyTypes: \"ingress\" is none of Ingress and Egress: both directions are isolated\n"},
		{"a subject's operator", "{podSelector: {matchExpressions: [{key: a, operator: Is}]}, ingress: [{}], policyTypes: [Ingress]}",
			all + in + "problem: podSelector: \"Is\" is not a valid label selector operator: every pod of the namespace is selected, and no rule counts\n"},
		{"a peer with nothing", "{ingress: [{from: [{}]}]}", all + in + " ingress accept  peers= ports=all\nproblem: ingress rule 1, peer 1: it has neither selectors nor an ipBlock: it matches nothing\n"},
		{"a peer with both", "{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}, {podSelector: {}}]}]}",
			all + in + " ingress accept  peers={} ports=all\nproblem: ingress rule 1, peer 1: it has selectors and an ipBlock, of which it can have one: it matches nothing\n"},
		{"a peer's selectors", "{ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}, {namespaceSelector: {matchLabels: {'a b': c}}}]}]}",
			all + in + " ingress accept  peers= ports=all\n" +
				"problem: ingress rule 1, peer 1: podSelector: values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty: it matches nothing\n" +
				"problem: ingress rule 1, peer 2: namespaceSelector: key: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName', or 'my.name', or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]'): it matches nothing\n"},
		{"blocks that are none", "{egress: [{to: [{ipBlock: {cidr: 010.0.0.0/8}}, {ipBlock: {cidr: 10.0.0.0}}, {ipBlock: {cidr: '::ffff:10.0.0.0/104'}}, {ipBlock: {}}]}], policyTypes: [Egress]}",
			all + out + " egress accept  peers= ports=all\n" +
				"problem: egress rule 1, peer 1: \"010.0.0.0/8\" is not a CIDR: it matches nothing\n" +
				"problem: egress rule 1, peer 2: \"10.0.0.0\" is not a CIDR: it matches nothing\n" +
				"problem: egress rule 1, peer 3: \"::ffff:10.0.0.0/104\" is not a CIDR: it matches nothing\n" +
				"problem: egress rule 1, peer 4: \"\" is not a CIDR: it matches nothing\n"},
		{"excepts", "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/7]}}, {ipBlock: {cidr: '::/0', except: [10.0.0.0/8]}}, {ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}], policyTypes: [Egress]}",
			all + out + " egress accept  peers= ports=all\n" +
				"problem: egress rule 1, peer 1: except \"11.0.0.0/16\" is not within 10.0.0.0/8: it matches nothing\n" +
				"problem: egress rule 1, peer 2: except \"10.0.0.0/7\" is not within 10.0.0.0/8: it matches nothing\n" +
				"problem: egress rule 1, peer 3: except \"10.0.0.0/8\" is not within ::/0: it matches nothing\n" +
				"problem: egress rule 1, peer 4: \"x\" is not a CIDR: it matches nothing\n"},
		{"protocols", "{ingress: [{ports: [{protocol: tcp, port: 80}, {protocol: '', port: 81}, {protocol: ICMP}]}]}",
			all + in + " ingress accept  peers=all ports=\n" +
				"problem: ingress rule 1, port 1: \"tcp\" is none of TCP, UDP and SCTP: it matches nothing\n" +
				"problem: ingress rule 1, port 2: the protocol is empty: it matches nothing\n" +
				"problem: ingress rule 1, port 3: \"ICMP\" is none of TCP, UDP and SCTP: it matches nothing\n"},
		{"port numbers", "{ingress: [{ports: [{port: 0}, {port: 65536}, {port: -1}, {port: '80'}, {port: ''}, {port: a_b}]}]}",
			all + in + " ingress accept  peers=all ports=\n" +
				"problem: ingress rule 1, port 1: 0 is not a port: it matches nothing\n" +
				"problem: ingress rule 1, port 2: 65536 is not a port: it matches nothing\n" +
				"problem: ingress rule 1, port 3: -1 is not a port: it matches nothing\n" +
				"problem: ingress rule 1, port 4: \"80\" is neither a port's name nor a number: it matches nothing\n" +
				"problem: ingress rule 1, port 5: \"\" is neither a port's name nor a number: it matches nothing\n" +
				"problem: ingress rule 1, port 6: \"a_b\" is neither a port's name nor a number: it matches nothing\n"},
		{"ends of ranges", "{ingress: [{ports: [{endPort: 9}, {port: http, endPort: 9}, {port: 9, endPort: 8}, {port: 9, endPort: 65536}]}]}",
			all + in + " ingress accept  peers=all ports=\n" +
				"problem: ingress rule 1, port 1: endPort goes with a port that is a number: it matches nothing\n" +
				"problem: ingress rule 1, port 2: endPort goes with a port that is a number: it matches nothing\n" +
				"problem: ingress rule 1, port 3: ports 9 to 8: the last is before the first: it matches nothing\n" +
				"problem: ingress rule 1, port 4: 65536 is not a port: it matches nothing\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, said(t, policy(tc.spec))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const closedNote = "problem: until it can be read, the pods that it selects are isolated, and it allows nothing\n"

func TestAPolicyWhoseManifestCannotBeReadAllowsNothing(t *testing.T) {
	const in, out = " ingress isolated\n", " egress isolated\n"
	for _, tc := range []struct{ name, spec, want string }{
		{"a slip of the pen in a rule", "{podSelector: {matchLabels: {a: b}}, policyTypes: [Ingress], ingress: [{form: [{podSelector: {}}]}]}",
			"policy ns/p of {a=b}\n" + in + "problem: unknown field \"spec.ingress[0].form\"\n" + closedNote},
		{"no types that could be read", "{podSelector: {matchLabels: {a: b}}, policyType: [Ingress]}",
			"policy ns/p of {a=b}\n" + in + out + "problem: unknown field \"spec.policyType\"\n" + closedNote},
		{"a field of the wrong type", "{podSelector: {matchLabels: {a: b}}, policyTypes: [Egress], egress: [{ports: 5}]}",
			"policy ns/p of {a=b}\n" + out + "problem: read NetworkPolicy: json: cannot unmarshal number into Go struct field NetworkPolicyEgressRule.spec.egress.ports of type []v1.NetworkPolicyPort\n" + closedNote},
		{"a subject that cannot be read", "{podSelector: {matchLabel: {a: b}}, policyTypes: [Ingress]}",
			"policy ns/p of {}\n" + in + "problem: unknown field \"spec.podSelector.matchLabel\"\n" + closedNote},
		{"a spec of the wrong type", "5",
			"policy ns/p of {}\n" + in + out + "problem: read NetworkPolicy: json: cannot unmarshal number into Go struct field NetworkPolicy.spec of type v1.NetworkPolicySpec\n" + closedNote},
		{"a status, as older API servers had", "{}\nstatus: {}", "policy ns/p of {}\n" + in + "problem: unknown field \"status\"\n"},
		{"a field outside of spec", "{}\npodSelector: {matchLabels: {a: b}}", "policy ns/p of {}\n" + in + out + "problem: unknown field \"podSelector\"\n" + closedNote},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := said(t, policy(tc.spec))
			if diff := cmp.Diff(sortedLines(tc.want), sortedLines(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// sortedLines makes the order of problems no matter.
func sortedLines(s string) []string { return slices.Sorted(strings.Lines(s)) }

func TestAPolicyThatCannotBeReadAnyMoreCountsAsItLastDid(t *testing.T) {
	c := newContent()
	good := policy("{podSelector: {matchLabels: {a: b}}, ingress: [{from: [{podSelector: {}}]}]}")
	broken := policy("{podSelector: {matchLabels: {a: b}}, ingress: [{form: [{podSelector: {}}]}]}")
	c.set("a.yaml", []byte(good))
	want := c.snapshot().NetworkPolicies
	for range 2 {
		c.set("a.yaml", []byte(broken))
		if s := c.snapshot(); s.NetworkPolicies != want || len(s.Problems) == 0 {
			t.Errorf("another policy, or no problem:\n%s", text(s))
		}
		broken = strings.Replace(broken, "a: b", "a: c", 1)
	}

	// What it counted as without ever having been read is no state to keep.
	c = newContent()
	c.set("a.yaml", []byte(broken))
	c.set("a.yaml", []byte(strings.Replace(broken, "a: c", "a: d", 1)))
	if got := text(c.snapshot()); !strings.HasPrefix(got, "policy ns/p of {a=d}\n ingress isolated\n egress isolated\nproblem") {
		t.Error(got)
	}
}

func TestAPolicyOfANamespaceThatCannotBeReadIsLeftOut(t *testing.T) {
	c := newContent()
	c.set("a.yaml", []byte(strings.Replace(policy("{}"), "namespace: ns", "namespace: 5", 1)))
	if s := c.snapshot(); s.NetworkPolicies.Len() > 0 || !s.Incomplete || len(s.Problems) == 0 {
		t.Errorf("got:\n%s", text(s))
	}
}
