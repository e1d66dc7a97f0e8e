//go:build tools

// Package tools names the commands built from this module, so that go mod tidy keeps their sums.
package tools

import (
	_ "go.etcd.io/etcd/server/v3"
)
