package oracle

import (
	"fmt"
	"strings"
)

// String is a line: who decided, of the end that denies it, or else of both.
func (v Ruling) String() string {
	for _, j := range []*Judgement{v.Egress, v.Ingress} {
		if j != nil && !j.Allowed {
			return "denied, " + j.String()
		}
	}
	var parts []string
	for _, j := range []*Judgement{v.Egress, v.Ingress} {
		if j != nil {
			parts = append(parts, j.String())
		}
	}
	if len(parts) == 0 {
		return "allowed, no pod's policies are asked"
	}
	return "allowed, " + strings.Join(parts, ", ")
}

// String says who decided: "ingress by NetworkPolicy/db/web rule 0".
func (j *Judgement) String() string {
	direction := "ingress "
	if j.Egress {
		direction = "egress "
	}
	var by []string
	for _, p := range j.By {
		by = append(by, p.String())
	}
	switch j.Reason {
	case ByRule:
		text := fmt.Sprintf("%sby %s rule %d", direction, by[0], j.Rule)
		if j.RuleName != "" {
			text += " " + j.RuleName
		}
		return text
	case Isolated:
		return direction + "isolated by " + strings.Join(by, " ")
	}
	return direction + "by " + string(j.Reason)
}
