package cases

import (
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/policy"
)

// Differs says what is different between the oracle's answer and the model's: the verdict, or who decided. "": nothing.
func (m *Model) Differs(p oracle.Packet, want oracle.Ruling) string {
	allowed, egress, ingress := m.Judge(p)
	if allowed == want.Allowed && IsSame(want.Egress, egress) && IsSame(want.Ingress, ingress) {
		return ""
	}
	text := map[bool]string{true: "allowed", false: "denied"}[allowed]
	if egress != nil {
		text += ", egress by " + strings.Join(egress.Objects, ", ") + " " + egress.Name
	}
	if ingress != nil {
		text += ", ingress by " + strings.Join(ingress.Objects, ", ") + " " + ingress.Name
	}
	return "oracle: " + want.String() + "\nmodel:  " + text
}

// IsSame compares who decided. Where nothing is looked up, that is nobody, and so it is by default.
func IsSame(j *oracle.Judgement, d *policy.Decider) bool {
	if j == nil || d == nil {
		return d == nil && (j == nil || j.Allowed && j.Reason != oracle.ByRule && j.Reason != oracle.Isolated)
	}
	var by []string
	for _, p := range j.By {
		by = append(by, p.String())
	}
	return slices.Equal(by, d.Objects) && j.Rule == d.Rule && j.RuleName == d.Name
}
