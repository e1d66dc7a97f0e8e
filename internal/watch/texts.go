package watch

import "strings"

// texts holds one copy of each text that thousands of objects have: names of nodes, zones, ports, namespaces. It is
// of one reader at a time. The nil texts shares nothing.
type texts map[string]string

// maxTexts bounds what texts that nobody has any more cost.
const maxTexts = 1 << 16

func (t texts) shared(s string) string {
	if t == nil || s == "" {
		return s
	}
	if same, ok := t[s]; ok {
		return same
	}
	if len(t) >= maxTexts {
		clear(t)
	}
	s = strings.Clone(s)
	t[s] = s
	return s
}
