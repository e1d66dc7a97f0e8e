package report

import (
	"regexp"
	"strings"
)

// ParseGoTest reads what a Go test program prints with -test.v. It returns the tests below a parent, in their order; of those
// that have sub-tests only the sub-tests, as they are what was tried. The message of one that failed is what it
// expected last.
func ParseGoTest(output, parent string) []Outcome {
	begins := regexp.MustCompile(`^=== (?:RUN|NAME|CONT)\s+(\S+)$`)
	ends := regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)
	states := map[string]string{"PASS": "pass", "FAIL": "fail", "SKIP": "skip"}
	expected, state := map[string]string{}, map[string]string{}
	var order []string
	now := ""
	for _, line := range strings.Split(output, "\n") {
		if found := begins.FindStringSubmatch(line); found != nil {
			now = found[1]
			if _, seen := expected[now]; !seen {
				expected[now] = ""
				order = append(order, now)
			}
		} else if found := ends.FindStringSubmatch(line); found != nil {
			state[found[2]] = states[found[1]]
		} else if _, message, ok := strings.Cut(line, ": Expected "); ok {
			expected[now] = "expected " + message
		}
	}
	var outcomes []Outcome
	for i, name := range order {
		hasTests := i+1 < len(order) && strings.HasPrefix(order[i+1], name+"/")
		if hasTests || !strings.HasPrefix(name, parent) || state[name] == "" {
			continue
		}
		outcome := Outcome{Name: strings.TrimPrefix(name, parent), State: state[name]}
		if outcome.State == "fail" {
			outcome.Message = expected[name]
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes
}
