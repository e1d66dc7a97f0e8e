package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/polder-net/polder/lab"
)

func labAsk(e env, args []string) error {
	f := newFlags("lab ask", "[--from PLACE] [--udp] [--times N] ADDRESS:PORT", `
Asks at an address who serves there, by a new connection each time, and counts who answered and which address of the
client it saw. See 'polder lab pod create --serve'.`)
	state := stateFlag(f)
	from := f.String("from", "", "ask from this `place`, a node, a pod or \"outside\" (default: from here)")
	udp := f.Bool("udp", false, "ask by UDP, not TCP")
	times := f.Int("times", 10, "ask a `number` of times")
	patience := f.Duration("patience", 2*time.Second, "how long an answer may take: a `time`")
	output := f.String("o", "", "print `json`, for programs: each answer; or text")
	words, err := f.parse(e, args, "ADDRESS:PORT")
	if err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(words[0])
	if err != nil {
		return usagef("lab ask: %q: want ADDRESS:PORT, say 10.96.0.17:80 or [fd00:96::11]:80", words[0])
	}
	if err := checkOutput("lab ask", *output); err != nil {
		return err
	}
	if *from != "" {
		return askFrom(e, *state, *from, args)
	}
	network := map[bool]string{false: "tcp", true: "udp"}[*udp]
	answers := []lab.Answer{}
	for range *times {
		answers = append(answers, lab.Ask(network, to, *patience))
	}
	if *output == "json" {
		return writeIndented(e.stdout, answers)
	}
	writeAnswers(e.stdout, answers)
	return nil
}

// askFrom runs the same command inside a place: the last --from counts.
func askFrom(e env, state, from string, args []string) error {
	c, err := lab.Open(state)
	if err != nil {
		return err
	}
	place, err := c.Place(from)
	if err != nil {
		return err
	}
	return place.Exec(append([]string{c.Bin() + "/polder", "lab", "ask"}, append(slices.Clone(args), "--from=")...), e.environ)
}

func writeAnswers(w io.Writer, answers []lab.Answer) {
	count := map[string]int{}
	for _, a := range answers {
		line := fmt.Sprintf("%s, which saw %s", a.Name, a.Seen.Addr())
		if a.Error != "" {
			line = "no answer: " + a.Error
		}
		count[line]++
	}
	lines := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b))
	})
	for _, line := range lines {
		fmt.Fprintf(w, "%5d  %s\n", count[line], line)
	}
}

func labRoute(e env, args []string) error {
	f := newFlags("lab route", "PREFIX NODE", `
Sends what the client outside has for addresses of a prefix to a node, as a router in front of the cluster would. At
first, the load balancers' addresses, 192.0.2.0/24 and 2001:db8:2::/64, go to node-1.`)
	state := stateFlag(f)
	words, err := f.parse(e, args, "PREFIX", "NODE")
	if err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(words[0])
	if err != nil {
		return usagef("lab route: %q: want a prefix, say 192.0.2.0/24", words[0])
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	node, err := c.Node(words[1])
	if err != nil {
		return err
	}
	return c.RouteOutside(prefix, node)
}
