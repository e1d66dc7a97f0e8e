//go:build tools

// Package tools names the commands built from this module, so that go mod tidy keeps their sums.
package tools

import (
	_ "github.com/coredns/coredns"
)
