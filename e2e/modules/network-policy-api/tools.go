//go:build tools

// Package tools names the test binary built from this module, so that go mod tidy keeps its sums.
package tools

import (
	_ "sigs.k8s.io/network-policy-api/conformance"
	_ "sigs.k8s.io/network-policy-api/conformance/tests"
	_ "sigs.k8s.io/network-policy-api/conformance/utils/suite"
)
