package cases_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/oracle/cases"
	"github.com/polder-net/polder/internal/watch"
)

var (
	packets  = flag.Int("cases", 5_000, "how many random packets model and oracle judge")
	seedFlag = flag.Uint64("seed", 0, "repeat the random test of this seed")
)

// packetsOfOne is how many packets a random cluster is asked about.
const packetsOfOne = 50

func TestTheModelAnswersEveryScenarioAsTheOracleDoes(t *testing.T) {
	for _, s := range scenarios(t) {
		m := cases.NewModel(watch.Once("scenario.yaml", s.Manifests))
		for _, c := range s.Connections {
			if diff := m.Differs(c.Packet, s.Objects.Judge(c.Packet)); diff != "" {
				t.Errorf("%s: %s\n%s", filepath.Base(s.Path), c.Text, diff)
			}
		}
	}
}

func TestTheModelAnswersCyclonusAsTheOracleDoes(t *testing.T) {
	all, err := cases.Cyclonus()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, c := range all {
		for i, o := range c.States {
			m := cases.NewModel(cases.Snapshot(o))
			for _, p := range cases.Tried(o) {
				asked++
				if diff := m.Differs(p, o.Judge(p)); diff != "" {
					t.Errorf("%s, state %d: %v\n%s", c.Name, i, p, diff)
				}
			}
		}
	}
	t.Logf("%d cases, %d connections", len(all), asked)
}

func seed(t *testing.T) uint64 {
	first := *seedFlag
	if first == 0 {
		first = rand.Uint64()
	}
	t.Logf("-seed=%d", first)
	return first
}

// ask judges random packets of a cluster by both, and counts reasons.
func ask(t *testing.T, d *cases.Dice, o *oracle.Objects, m *cases.Model, of uint64, counts map[string]int) {
	t.Helper()
	for range packetsOfOne {
		p := d.Packet(o)
		want := o.Judge(p)
		if diff := m.Differs(p, want); diff != "" {
			file := filepath.Join(os.TempDir(), "polder-policies.json")
			_ = os.WriteFile(file, cases.Manifests(o), 0o644)
			t.Fatalf("-seed=%d: %v\n%s\nproblems %v\nthe cluster is in %s", of, p, diff, m.Snapshot.Problems, file)
		}
		counts[map[bool]string{true: "allowed", false: "denied"}[want.Allowed]]++
		for _, j := range []*oracle.Judgement{want.Egress, want.Ingress} {
			if j != nil {
				counts["by "+string(j.Reason)]++
			}
		}
	}
}

func TestTheModelJudgesRandomPacketsAsTheOracleDoes(t *testing.T) {
	first, counts := seed(t), map[string]int{}
	for i := range uint64((*packets + packetsOfOne - 1) / packetsOfOne) {
		d := cases.NewDice(first + i)
		o := d.Cluster()
		ask(t, d, o, cases.NewModel(cases.Snapshot(o)), first+i, counts)
	}
	t.Logf("%d packets: %v", *packets, counts)
}

// A cluster becomes another ten times, most of whose objects have the names of those before.
func TestAModelThatIsToldOfChangesJudgesAsTheOracleDoes(t *testing.T) {
	const changes = 10
	first, counts := seed(t), map[string]int{}
	for i := range uint64((*packets + changes*packetsOfOne - 1) / (changes * packetsOfOne)) {
		d := cases.NewDice(first + i)
		m := cases.NewModel(&cluster.Snapshot{})
		for range changes {
			o := d.Cluster()
			m.Become(cases.Snapshot(o))
			ask(t, d, o, m, first+i, counts)
		}
	}
	t.Logf("%d packets: %v", *packets, counts)
}
