package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/explain"
	"github.com/polder-net/polder/internal/probe"
)

// mostDeclared is how many pairs at declared ports are probed, of more a random sample.
const mostDeclared = 4000

// tryAgainAfter is how long a disagreement is left alone before it is looked at once more: objects change, and the
// policies that follow them are in force a little later.
const tryAgainAfter = time.Second

// policyReport is what a check of policies found.
type policyReport struct {
	Seed       uint64           `json:"seed"` // of the random pairs
	Nodes      int              `json:"nodes"`
	Pods       int              `json:"pods"`
	Probes     int              `json:"probes"`
	Denied     int              `json:"denied"`  // of them, as policies say
	LeftOut    int              `json:"leftOut"` // pairs at declared ports, of which there are too many
	Unclear    int              `json:"unclear"` // datagrams that policies allow and nobody answered
	Mismatches []policyMismatch `json:"mismatches"`
	Failures   []probe.Failure  `json:"failures"` // nodes that cannot be probed
	Seconds    float64          `json:"seconds"`
}

func (r policyReport) ok() bool { return len(r.Mismatches) == 0 && len(r.Failures) == 0 }

// policyMismatch is a pair of which packets say something else than the objects.
type policyMismatch struct {
	From    string         `json:"from"`
	To      string         `json:"to"`
	Address netip.AddrPort `json:"address"`
	Over    string         `json:"protocol"`
	Allowed bool           `json:"allowed"` // by the policies
	Because []string       `json:"because"`
	Packets string         `json:"packets"` // what came back, or why nothing did
}

// policyCheck compares what policies say with what packets do.
type policyCheck struct {
	read    func() (*explain.Cluster, error)
	probes  int  // random ones
	all     bool // pairs at declared ports, however many
	random  *rand.Rand
	report  policyReport
	model   *explain.Cluster
	parties []probe.Party
	err     error
	pause   time.Duration // before disagreements are looked at again
	doubted bool          // they are being
}

func checkPolicies(ctx context.Context, e env, what string, o probe.Options, c checkFlags) error {
	p := &progress{env: e, began: time.Now(), lost: "not answered"}
	fmt.Fprintf(e.stderr, "checking the policies of %s: %s\n", what, several(len(o.Targets), "node"))
	o.Progress = p.show
	seed := c.seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	check := policyCheck{
		read:   c.objects(ctx, e),
		probes: c.probes, all: c.all, pause: tryAgainAfter, random: rand.New(rand.NewPCG(seed, 0)),
		report: policyReport{Seed: seed, Mismatches: []policyMismatch{}, Failures: []probe.Failure{}},
	}
	failures, err := probe.Try(ctx, o, check.next)
	p.clear()
	if err = errors.Join(err, check.err); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if check.report.Probes == 0 && len(failures) == 0 {
		return errors.New("check: there is nothing to prove: no pod has both an object and an address")
	}
	check.report.Failures = append(check.report.Failures, failures...)
	check.report.Seconds = time.Since(p.began).Seconds()
	if c.output == "json" {
		err = writeIndented(e.stdout, check.report)
	} else {
		writePolicyReport(e.stdout, check.report)
	}
	if err == nil && !check.report.ok() {
		return errFailed
	}
	return err
}

// objects returns what reads the policies of the cluster that is checked, and says once what of them cannot be read.
func (c checkFlags) objects(ctx context.Context, e env) func() (*explain.Cluster, error) {
	said := false
	return func() (*explain.Cluster, error) {
		o, err := objectsFlags{kubeconfig: c.kubeconfig, state: c.state}.read(ctx, e)
		if err == nil && !said {
			said = true
			warn(e, reportProblems(o.problems))
		}
		return o.Cluster, err
	}
}

// next chooses what is tried: all, then once more that in which packets and policies disagree.
func (p *policyCheck) next(parties []probe.Party, done []probe.Attempted) []probe.Attempt {
	p.parties = parties
	if done != nil && p.doubted {
		p.conclude(done)
		return nil
	}
	if done != nil {
		p.doubted = true
		time.Sleep(p.pause)
	}
	if p.model, p.err = p.read(); p.err != nil {
		return nil
	}
	if done == nil {
		return p.choose()
	}
	return p.again(done)
}

// choose lists random pairs at ports that nobody else has, and all pairs at the ports that pods declare.
func (p *policyCheck) choose() []probe.Attempt {
	for _, party := range p.parties {
		if party.Pod {
			p.report.Pods++
		} else {
			p.report.Nodes++
		}
	}
	declared := p.declared()
	if len(declared) > mostDeclared && !p.all {
		p.random.Shuffle(len(declared), func(i, j int) { declared[i], declared[j] = declared[j], declared[i] })
		p.report.LeftOut = len(declared) - mostDeclared
		declared = declared[:mostDeclared]
	}
	return append(declared, p.pairs()...)
}

func (p *policyCheck) declared() (list []probe.Attempt) {
	for to, party := range p.parties {
		ports, known := p.model.Declared(party.Name)
		if !party.Pod || !known {
			continue
		}
		for from := range p.parties {
			for _, port := range ports {
				if from == to || port.Protocol == cluster.SCTP || !p.isKnown(from) {
					continue
				}
				for _, a := range party.Addresses {
					if p.source(from, a.Is4()).IsValid() {
						list = append(list, probe.Attempt{From: from, To: to, Address: a, Port: port.Number, UDP: port.Protocol == cluster.UDP})
					}
				}
			}
		}
	}
	return list
}

// pairs lists random ones, of which one end at least is a pod.
func (p *policyCheck) pairs() (list []probe.Attempt) {
	for tries := 0; len(list) < p.probes && tries < 100*p.probes; tries++ {
		from, to := p.random.IntN(len(p.parties)), p.random.IntN(len(p.parties))
		pods := p.parties[from].Pod || p.parties[to].Pod
		if from == to || !pods || !p.isKnown(from) || !p.isKnown(to) || len(p.parties[to].Addresses) == 0 {
			continue
		}
		a := p.parties[to].Addresses[p.random.IntN(len(p.parties[to].Addresses))]
		attempt := probe.Attempt{From: from, To: to, Address: a, Port: p.parties[to].TCP[a], UDP: p.random.IntN(2) == 0}
		if attempt.UDP {
			attempt.Port = p.parties[to].UDP[a]
		}
		if p.source(from, a.Is4()).IsValid() {
			list = append(list, attempt)
		}
	}
	return list
}

// isKnown says whether a party is a node, or a pod that there is an object of.
func (p *policyCheck) isKnown(i int) bool {
	_, known := p.model.Declared(p.parties[i].Name)
	return known || !p.parties[i].Pod
}

// source is the address that a party sends from in a family.
func (p *policyCheck) source(i int, ipv4 bool) netip.Addr {
	for _, a := range p.parties[i].Addresses {
		if a.Is4() == ipv4 {
			return a
		}
	}
	return netip.Addr{}
}
