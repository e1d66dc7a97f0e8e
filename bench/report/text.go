package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Text writes the table for people.
func Text(w io.Writer, r Report) error {
	table := [][]string{{"", "measure", "value", "bar", "verdict", "measured"}}
	for _, row := range r.Rows {
		table = append(table, []string{row.ID, row.What, row.ValueText(), row.BarText(), row.Verdict(), row.Seen})
	}
	widths := make([]int, len(table[0]))
	for _, line := range table {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range table {
		var b strings.Builder
		for i, cell := range line {
			b.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	for _, n := range r.Notes {
		if _, err := fmt.Fprintln(w, "note: "+n); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", summary(r))
	return err
}

func summary(r Report) string {
	var bars int
	for _, row := range r.Rows {
		if row.HasBar() {
			bars++
		}
	}
	return fmt.Sprintf("%d of %d bars are met. Values are medians with a 95 %% interval; \"?\": the interval has the bar in it.",
		bars-len(r.Missed()), bars)
}
