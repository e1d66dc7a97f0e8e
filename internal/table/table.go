// Package table compares the rows that are with the rows that should be. It knows nothing of what a row means.
package table

import (
	"cmp"
	"slices"
)

// Change is one row that differs.
type Change[K comparable, V any] struct {
	Key K
	Row V
}

// Diff says what turns have into want: the rows to put, in order of compare, and the rows to delete, in reverse.
// Putting comes first, then deleting: make before break. Nil and empty mean the same.
func Diff[K, V comparable](have, want map[K]V, compare func(a, b K) int) (put, del []Change[K, V]) {
	for k, w := range want {
		if h, ok := have[k]; !ok || h != w {
			put = append(put, Change[K, V]{k, w})
		}
	}
	for k, h := range have {
		if _, ok := want[k]; !ok {
			del = append(del, Change[K, V]{k, h})
		}
	}
	slices.SortFunc(put, func(a, b Change[K, V]) int { return compare(a.Key, b.Key) })
	slices.SortFunc(del, func(a, b Change[K, V]) int { return compare(b.Key, a.Key) })
	return put, del
}

// Keys returns the keys of a map in their natural order.
func Keys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
