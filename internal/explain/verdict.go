package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// family is what becomes of the packets of one address family.
type family struct {
	ipv4     bool
	refusals []string // by Services
	ways     []Way
}

func (f *family) name() string {
	if f.ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

// allowed counts the ways that are.
func (f *family) allowed() (n int) {
	for _, w := range f.ways {
		if w.Allowed {
			n++
		}
	}
	return n
}

// reasons say why packets do not pass.
func (f *family) reasons() (texts []string) {
	texts = union(nil, f.refusals)
	for _, w := range f.ways {
		texts = union(texts, w.Blame())
	}
	return texts
}

// judge sums the families up.
func (a *Answer) judge(families []*family) {
	allowed := 0
	for _, f := range families {
		allowed += f.allowed()
	}
	reasons := allReasons(families)
	a.Allowed = allowed > 0 && len(reasons) == 0
	switch {
	case a.Allowed:
		a.Verdict = "allowed"
	case allowed == 0 && len(a.Ways) == 0:
		a.Verdict = cmp.Or(strings.Join(reasons, "; "), "dropped: no node can choose a backend")
	case allowed == 0:
		a.Verdict = "denied: " + strings.Join(reasons, "; ")
	default:
		a.Verdict = cmp.Or(byFamily(families), "allowed for some packets only: "+strings.Join(reasons, "; "))
	}
}

// byFamily is the verdict where one of two families passes and the other does not; else empty.
func byFamily(families []*family) string {
	if len(families) != 2 {
		return ""
	}
	good, bad := families[0], families[1]
	if good.allowed() == 0 {
		good, bad = bad, good
	}
	if len(good.reasons()) > 0 || bad.allowed() > 0 {
		return ""
	}
	denied := "not"
	if len(bad.ways) > 0 {
		denied = "denied"
	}
	return fmt.Sprintf("allowed by %s, %s by %s: %s", good.name(), denied, bad.name(), strings.Join(bad.reasons(), "; "))
}

// allReasons says of those that are not both families' which one's they are.
func allReasons(families []*family) (texts []string) {
	for i, f := range families {
		for _, r := range f.reasons() {
			if len(families) == 2 && !slices.Contains(families[1-i].reasons(), r) {
				r = f.name() + " " + r
			}
			texts = union(texts, []string{r})
		}
	}
	return texts
}

// Blame says which end denies the packets, and by what.
func (w Way) Blame() (texts []string) {
	for _, s := range w.sides() {
		if !s.Allowed {
			texts = append(texts, fmt.Sprintf("%s %s, %s", s.title(), few(s.Pods), s.Blame()))
		}
	}
	return texts
}

func few(names []string) string {
	if len(names) <= 2 {
		return strings.Join(names, " and ")
	}
	return fmt.Sprintf("%s and %d others", names[0], len(names)-1)
}
