package traffic

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what became of the traffic.
type Report struct {
	Took     time.Duration
	Paths    []PathReport // the control path last
	Counters counters     // of the kernels of all places, what moved
	Details  []string     // and where
}

// PathReport is what became of a path's traffic.
type PathReport struct {
	Name    string
	Control bool

	Flows, LostFlows, Resets uint64 // long-lived connections; those that ended early; those of them that were reset
	Records, LostRecords     uint64
	Again                    uint64        // segments of long-lived connections that were sent again
	MaxGap                   time.Duration // the longest silence of a long-lived connection
	MaxEcho                  time.Duration // the slowest echo

	Connects, FailedConnects uint64 // new connections
	SYNAgain                 uint64 // of those that were made: how many had to knock twice
	MaxConnect               time.Duration

	Datagrams, LostDatagrams, Twice, Foreign uint64
	LostAnswers                              uint64        // of datagrams that came and were answered
	MaxDelay                                 time.Duration // of a datagram, as the kernels saw it

	Errors []string // the first of each kind
}

func (r *Run) report(took time.Duration) Report {
	out := Report{Took: took, Counters: counters{}}
	for _, p := range r.paths {
		out.Paths = append(out.Paths, p.report())
	}
	return out
}

func (r *Report) add(place string, moved counters) {
	for _, name := range counted() {
		if n := moved[name]; n > 0 {
			r.Counters[name] += n
			r.Details = append(r.Details, fmt.Sprintf("%s: the kernel counted %s %d", place, name, n))
		}
	}
}

func (p *path) report() PathReport {
	r := PathReport{Name: p.Name, Control: p.control}
	for _, f := range p.flows {
		r.addFlow(f)
	}
	if c := p.connects; c != nil {
		r.Connects, r.FailedConnects, r.SYNAgain, r.MaxConnect = c.made, c.failed, c.synAgain, c.slowest
		r.Resets += c.reset
		r.note(c.err)
	}
	if d := p.datagrams; d != nil {
		r.Datagrams, r.LostDatagrams, r.Twice, r.Foreign, r.MaxDelay = d.sent, d.sent-d.got, d.twice, d.foreign, d.maxDelay
		if d.echo {
			r.LostAnswers = d.got - min(d.got, d.answers)
		}
		r.note(d.sendErr)
		r.note(d.hearErr)
	}
	return r
}

func (r *PathReport) addFlow(f *flow) {
	r.Flows++
	r.Records += f.sent.Load()
	r.LostRecords += f.sent.Load() - f.echoed
	r.Again += again(f.conn)
	r.MaxGap, r.MaxEcho = max(r.MaxGap, f.maxGap), max(r.MaxEcho, f.maxEcho)
	if f.err != nil {
		r.LostFlows++
		if isReset(f.err) {
			r.Resets++
		}
		r.note(f.err)
	}
}

func (r *PathReport) note(err error) {
	if err != nil && !slices.Contains(r.Errors, err.Error()) {
		r.Errors = append(r.Errors, err.Error())
	}
}

// Lost says what may never happen, whatever the machine is busy with: connections that ended, were reset or could not
// be opened, or knocked twice, datagrams that came twice, or more than one segment or datagram in 10,000 that did not come. Of the control
// path it says so too: then the machine, or the checker, is broken.
func (r Report) Lost() []string {
	var broken []string
	for _, p := range r.Paths {
		say := func(n uint64, what string) {
			if n > 0 {
				broken = append(broken, fmt.Sprintf("%s: %d %s %s", p.Name, n, what, strings.Join(p.Errors, "; ")))
			}
		}
		say(p.LostFlows, "established connections lost")
		say(p.LostRecords, "records without echo")
		say(p.Resets, "connections reset")
		say(p.FailedConnects, "new connections failed")
		if p.Again*10_000 > p.Records {
			say(p.Again, fmt.Sprintf("segments sent again, of %d records", p.Records))
		}
		say(p.SYNAgain, "new connections whose first packet was lost")
		say(p.Twice, "datagrams doubled")
		say(p.Foreign, "datagrams of others, or from another address")
		if p.LostDatagrams*10_000 > p.Datagrams {
			say(p.LostDatagrams, fmt.Sprintf("of %d datagrams lost", p.Datagrams))
		}
		if p.LostAnswers*10_000 > p.Datagrams {
			say(p.LostAnswers, fmt.Sprintf("answers to %d datagrams lost", p.Datagrams))
		}
		if p.Records == p.Flows && p.Flows > 0 || p.Connects == 0 && p.Datagrams == 0 && p.Flows == 0 {
			broken = append(broken, p.Name+": there was no traffic")
		}
	}
	if n := r.Counters["Tcp.EstabResets"]; n > 0 {
		broken = append(broken, fmt.Sprintf("the kernels counted Tcp.EstabResets %d", n))
	}
	if n := r.Counters["Tcp.OutRsts"]; n > r.strayResets() {
		broken = append(broken, fmt.Sprintf("the kernels counted Tcp.OutRsts %d, for no connection", n))
	}
	return broken
}

// strayResets is how many resets may hit nobody. When a busy machine moves whoever closes a connection from one CPU to
// another between its acknowledgement and its FIN, the two can change places; the closed client answers the late one
// once more, and to the server that is a segment of no connection.
func (r Report) strayResets() (n uint64) {
	for _, p := range r.Paths {
		n += p.Connects
	}
	return n / 200
}

// Gap is the bar for the longest silence of a connection.
const Gap = 50 * time.Millisecond

// Gaps compares the longest silences with the bar and, where the machine itself made longer ones, with those of the
// control path. It returns those that only the network can explain: over the bar and over three times the control's.
func (r Report) Gaps() []string {
	control := r.Paths[len(r.Paths)-1]
	var over []string
	for _, p := range r.Paths {
		if p.MaxGap > Gap && p.MaxGap > 3*control.MaxGap {
			over = append(over, fmt.Sprintf("%s: a connection was silent for %s, the control for %s",
				p.Name, round(p.MaxGap), round(control.MaxGap)))
		}
	}
	return over
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// String is the report as a table.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "traffic for %s\n", r.Took.Round(time.Millisecond))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "path\tflows\tlost\treset\trecords\tagain\tmax gap\tmax echo\tconnects\tfailed\tSYN again\tslowest\tdatagrams\tlost\tmax delay")
	for _, p := range r.Paths {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%d\t%s\n", p.Name, p.Flows, p.LostFlows, p.Resets,
			p.Records, p.Again, round(p.MaxGap), round(p.MaxEcho), p.Connects, p.FailedConnects, p.SYNAgain, round(p.MaxConnect),
			p.Datagrams, p.LostDatagrams, round(p.MaxDelay))
	}
	w.Flush()
	for _, line := range r.Details {
		fmt.Fprintln(&b, line)
	}
	for _, p := range r.Paths {
		for _, e := range p.Errors {
			fmt.Fprintf(&b, "%s: %s\n", p.Name, e)
		}
	}
	return b.String()
}
