package explain

// directed is a side with its direction, "egress" or "ingress".
type directed struct {
	direction string
	*Side
}

// title is what comes before the name of the pod.
func (d directed) title() string {
	if d.direction == "egress" {
		return "egress from"
	}
	return "ingress to"
}

// sides are those that there are.
func (w Way) sides() (list []directed) {
	if w.Egress != nil {
		list = append(list, directed{"egress", w.Egress})
	}
	if w.Ingress != nil {
		list = append(list, directed{"ingress", w.Ingress})
	}
	return list
}

// Because says in a few lines why the packets of a way pass or do not: who denies them, or else which rules let them.
func (w Way) Because() (lines []string) {
	for _, s := range w.sides() {
		if s.Allowed == w.Allowed && s.Reason != "default" {
			lines = append(lines, s.title()+" "+few(s.Pods)+" "+s.Because(s.direction))
		}
	}
	if len(lines) == 0 {
		return []string{"no policy isolates either end or denies it"}
	}
	return lines
}
