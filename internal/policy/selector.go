package policy

import (
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/polder-net/polder/internal/cluster"
)

// nothing is the text of a selector that selects nothing. labels.Nothing().String() is that of one that selects all.
const nothing = "nothing"

// selectorText says what a selector selects, the same for selectors that ask the same in another order. A nil one
// selects nothing.
func selectorText(s labels.Selector) string {
	if s == nil {
		return nothing
	}
	requirements, selectable := s.Requirements()
	if !selectable {
		return nothing
	}
	texts := make([]string, 0, len(requirements))
	for _, r := range requirements {
		values := slices.Clone(r.ValuesUnsorted())
		slices.Sort(values)
		text := strconv.Quote(r.Key()) + " " + string(r.Operator())
		for _, v := range slices.Compact(values) {
			text += " " + strconv.Quote(v)
		}
		texts = append(texts, text)
	}
	if len(texts) == 0 {
		return "all"
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), " and ")
}

func selects(s labels.Selector, l labels.Labels) bool { return s != nil && s.Matches(l) }

// selectsNamespace says whether a selector selects a namespace. One whose object is not known is selected by a selector
// that asks nothing of it: a pod is in some namespace, whatever its object would say. Every other selector needs it.
func selectsNamespace(s labels.Selector, ns *namespace) bool {
	switch {
	case s == nil:
		return false
	case ns.object == nil:
		return s.Empty() && selectorText(s) != nothing
	}
	return s.Matches(&ns.object.Labels)
}

// required returns labels of which everything that a selector selects has one; none: there may be no such labels.
func required(s labels.Selector) (list []cluster.Label) {
	requirements, _ := s.Requirements()
	for _, r := range requirements {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			values := slices.Clone(r.ValuesUnsorted())
			if list != nil && len(list) <= len(values) {
				continue
			}
			list = nil
			slices.Sort(values)
			for _, v := range slices.Compact(values) {
				list = append(list, cluster.Label{Key: r.Key(), Value: v})
			}
		}
	}
	return list
}
