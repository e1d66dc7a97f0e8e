package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plot's measures, in pixels.
const (
	plotWidth = 980
	labelEnd  = 400
	axisEnd   = 900
	rowHeight = 22
	plotTop   = 46
)

// Plot draws the ratios, their intervals and bars as SVG. The axis is logarithmic: half and double are as far from 1.
func Plot(r Report) string {
	var rows []Row
	for _, row := range r.Rows {
		if row.Unit == Ratio && row.Value.Median > 0 {
			rows = append(rows, row)
		}
	}
	low, high := span(rows)
	at := func(v float64) float64 {
		share := (math.Log2(v) - math.Log2(low)) / (math.Log2(high) - math.Log2(low))
		return labelEnd + min(max(share, 0), 1)*(axisEnd-labelEnd)
	}
	height := plotTop + rowHeight*len(rows) + 14
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		plotWidth, height, plotWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", plotWidth, height)
	fmt.Fprintf(&b, `<text x="10" y="18" font-weight="bold">Polder / baseline: median and 95 %% interval; the black tick is the bar</text>`+"\n")
	for v := low; v <= high*1.001; v *= 2 {
		grid(&b, at(v), v, height)
	}
	for i, row := range rows {
		draw(&b, row, at, float64(plotTop+rowHeight*i+rowHeight/2))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// span is the powers of two around all that is drawn.
func span(rows []Row) (low, high float64) {
	low, high = 0.5, 2
	for _, row := range rows {
		for _, v := range []float64{row.Value.Median, row.Bar} {
			for v > 0 && v < low {
				low /= 2
			}
			for v > high && !math.IsInf(v, 0) {
				high *= 2
			}
		}
	}
	return low, high
}

func grid(b *strings.Builder, x, v float64, height int) {
	colour := "#dddddd"
	if v == 1 {
		colour = "#888888"
	}
	fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s"/>`+"\n", x, plotTop-8, x, height-8, colour)
	fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%g</text>`+"\n", x, plotTop-12, v)
}

func draw(b *strings.Builder, row Row, at func(float64) float64, y float64) {
	colour := "#2a7f3f"
	switch {
	case !row.OK():
		colour = "#c0392b"
	case !row.HasBar():
		colour = "#7f8c8d"
	}
	fmt.Fprintf(b, `<text x="10" y="%.1f">%s</text>`+"\n", y+4, html.EscapeString(row.ID+"  "+row.What))
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="3"/>`+"\n",
		at(row.Value.Low), y, at(row.Value.High), y, colour)
	fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", at(row.Value.Median), y, colour)
	if row.HasBar() {
		x := at(row.Bar)
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#000000" stroke-width="2"/>`+"\n", x, y-8, x, y+8)
	}
	fmt.Fprintf(b, `<text x="%d" y="%.1f" fill="%s">%.2f</text>`+"\n", axisEnd+16, y+4, colour, row.Value.Median)
}
