package probe

import (
	"cmp"
	"slices"
)

// Report is what a check found. Its JSON is for programs: a field may be added, none is renamed or changes its
// meaning.
type Report struct {
	Nodes    int     `json:"nodes"`
	Pods     int     `json:"pods"`
	Pairs    int     `json:"pairs"`    // ordered pairs of nodes and pods that were probed
	Possible int     `json:"possible"` // that there are
	Probes   int     `json:"probes"`
	Denied   int     `json:"denied"` // by policies, so not tried: addresses of the receivers of these pairs
	Seconds  float64 `json:"seconds"`

	Laws     []Law     `json:"laws"`
	Failures []Failure `json:"failures"`
	Notes    []string  `json:"notes,omitempty"`
}

// OK says whether nothing failed.
func (r Report) OK() bool { return len(r.Failures) == 0 }

// Law is how one of the network's laws fared. For laws 1 to 4 and 6, what is checked are ordered pairs, once for each
// of the receiver's addresses; for law 5 it is pods' addresses.
type Law struct {
	Number  int    `json:"number"`
	Text    string `json:"text"`
	Checked int    `json:"checked"`
	Passed  int    `json:"passed"`
	Failed  int    `json:"failed"`
}

// Failure is one thing that was not as it should be.
type Failure struct {
	Law    int    `json:"law"` // 0: the check itself could not be carried out
	From   string `json:"from"`
	To     string `json:"to,omitempty"`
	Family string `json:"family,omitempty"` // "IPv4" or "IPv6"
	Probe  string `json:"probe,omitempty"`  // "tcp", "udp" or "full-size"
	Reason string `json:"reason"`
}

func newLaws() []Law {
	return []Law{
		{Number: 1, Text: "every node reaches every node, by its own address"},
		{Number: 2, Text: "every pod reaches every pod, by its own address"},
		{Number: 3, Text: "pods reach nodes and back, by their own addresses"},
		{Number: 4, Text: "the address a pod sees is the one its peers see"},
		{Number: 5, Text: "pod addresses are unique, of the node's pod CIDR"},
		{Number: 6, Text: "a full-size packet passes whole, never fragmented"},
	}
}

// tally counts what is checked and what of it failed.
type tally struct {
	laws     []Law
	failures []Failure
}

// check counts one thing, and its failures.
func (t *tally) check(law int, failures ...Failure) {
	l := &t.laws[law-1]
	l.Checked++
	if len(failures) == 0 {
		l.Passed++
		return
	}
	l.Failed++
	for _, f := range failures {
		f.Law = law
		t.failures = append(t.failures, f)
	}
}

func (t *tally) sort() {
	slices.SortStableFunc(t.failures, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(a.Law, b.Law), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To),
			cmp.Compare(a.Family, b.Family), cmp.Compare(a.Probe, b.Probe))
	})
}

func family(ipv4 bool) string {
	if ipv4 {
		return "IPv4"
	}
	return "IPv6"
}
