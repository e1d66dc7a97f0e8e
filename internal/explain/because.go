package explain

import (
	"fmt"
	"slices"
	"strings"
)

// Because says why a side allows or denies, as what follows the name of the pod.
func (s *Side) Because() string {
	switch s.Reason {
	case "rule":
		return fmt.Sprintf("%s by %s, %s", s.verb(), s.placed(s.Decided[0]), RuleText(s.Rule, s.RuleName))
	case "isolated":
		var placed []string
		for _, object := range s.Decided {
			placed = append(placed, s.placed(object))
		}
		does, their := "isolates", "its"
		if len(placed) > 1 {
			does, their = "isolate", "their"
		}
		return fmt.Sprintf("is denied: %s %s it, and none of %s rules matches", strings.Join(placed, ", "), does, their)
	case "own node":
		return "is allowed: no NetworkPolicy parts a pod from its own node"
	case "itself":
		return "is allowed: a pod always reaches itself"
	}
	if len(s.Policies) == 0 {
		return "is allowed: no policy selects it"
	}
	return "is allowed: no policy isolates it, and no rule denies this"
}

// Blame names what denies, in few words.
func (s *Side) Blame() string {
	if s.Reason == "rule" {
		return fmt.Sprintf("by %s, %s", s.Decided[0], RuleText(s.Rule, s.RuleName))
	}
	return "isolated by " + strings.Join(s.Decided, ", ")
}

func (s *Side) verb() string {
	if s.Allowed {
		return "is allowed"
	}
	return "is denied"
}

// RuleText is a rule's position as people count, from 1, and its name.
func RuleText(rule int, name string) string {
	if name == "" {
		return fmt.Sprintf("rule %d", rule+1)
	}
	return fmt.Sprintf("rule %d %q", rule+1, name)
}

// placed is an object's name with its manifest.
func (s *Side) placed(object string) string {
	i := slices.IndexFunc(s.Policies, func(p Policy) bool { return p.Object == object })
	if i < 0 || s.Policies[i].Where == "" {
		return object
	}
	return fmt.Sprintf("%s (%s)", object, s.Policies[i].Where)
}
