package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// textTable prints rows in columns. A cell of several lines makes its row as high.
type textTable struct{ rows [][]string }

func (t *textTable) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *textTable) write(w io.Writer) {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			for line := range strings.Lines(cell) {
				widths[i] = max(widths[i], utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
			}
		}
	}
	for _, row := range t.rows {
		writeRow(w, row, widths)
	}
}

func writeRow(w io.Writer, row []string, widths []int) {
	height := 1
	for _, cell := range row {
		height = max(height, strings.Count(cell, "\n")+1)
	}
	for y := range height {
		var line strings.Builder
		for i, cell := range row {
			lines := strings.Split(cell, "\n")
			text := ""
			if y < len(lines) {
				text = lines[y]
			}
			line.WriteString(text + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+2))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// several counts things: "1 node", "3 nodes".
func several(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// stacked prints values one below the other, as a cell.
func stacked[T fmt.Stringer](values []T) string {
	lines := make([]string, len(values))
	for i, v := range values {
		lines[i] = v.String()
	}
	return strings.Join(lines, "\n")
}
