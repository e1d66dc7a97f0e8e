package datapath

// PolicySizes are how much there is in the maps of policies.
type PolicySizes struct {
	Rules, Rulesets int // rows, and what they are of
	Classes         int
	Places          int // addresses and prefixes that have a class
}

// PolicySizes says how much this process has written, or found, in the maps of policies.
func (d *Datapath) PolicySizes() PolicySizes {
	s := &d.policies
	return PolicySizes{Rules: s.ruleRows, Rulesets: len(s.rules), Classes: len(s.uses), Places: len(s.classes.now) + len(s.blocks.now)}
}
