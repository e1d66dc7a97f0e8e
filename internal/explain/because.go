package explain

import (
	"fmt"
	"slices"
	"strings"
)

// Because says why a side, of the direction "egress" or "ingress", allows or denies: what follows the names of its pods.
func (s *Side) Because(direction string) string {
	is, it, its := "is", "it", "its"
	if len(s.Pods) > 1 {
		is, it, its = "are", "them", "their"
	}
	switch s.Reason {
	case "rule":
		verdict := "denied"
		if s.Allowed {
			verdict = "allowed"
		}
		return fmt.Sprintf("%s %s by %s, %s", is, verdict, s.placed(s.Decided[0]), RuleText(s.Rule, s.RuleName))
	case "isolated":
		var placed []string
		for _, object := range s.Decided {
			placed = append(placed, s.placed(object))
		}
		isolates, theirs := "isolates", "its"
		if len(placed) > 1 {
			isolates, theirs = "isolate", "their"
		}
		return fmt.Sprintf("%s denied: %s %s %s, and none of %s rules matches", is, strings.Join(placed, ", "), isolates, it, theirs)
	case "own node":
		return is + " allowed: no NetworkPolicy parts a pod from its own node"
	case "itself":
		return is + " allowed: a pod always reaches itself"
	}
	text := fmt.Sprintf("%s allowed: no policy isolates %s %s", is, its, direction)
	if len(s.Policies) > 0 {
		text += ", and no rule denies this"
	}
	return text
}

// Blame names what denies, in few words.
func (s *Side) Blame() string {
	if s.Reason == "rule" {
		return fmt.Sprintf("by %s, %s", s.Decided[0], RuleText(s.Rule, s.RuleName))
	}
	return "isolated by " + strings.Join(s.Decided, ", ")
}

// RuleText is a rule's position, from 1, and its name.
func RuleText(rule int, name string) string {
	if name == "" {
		return fmt.Sprintf("rule %d", rule)
	}
	return fmt.Sprintf("rule %d %q", rule, name)
}

// placed is an object's name with its manifest.
func (s *Side) placed(object string) string {
	i := slices.IndexFunc(s.Policies, func(p Policy) bool { return p.Object == object })
	if i < 0 || s.Policies[i].Where == "" {
		return object
	}
	return fmt.Sprintf("%s (%s)", object, s.Policies[i].Where)
}
