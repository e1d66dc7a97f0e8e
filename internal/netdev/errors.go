package netdev

import (
	"errors"
	"fmt"
)

// The errors that callers tell apart.
var (
	// ErrExists: the pod's network namespace already has an interface of that name.
	ErrExists = errors.New("the pod already has an interface of that name")

	// ErrAttached: the host side of this attachment exists already.
	ErrAttached = errors.New("the attachment exists already")

	// ErrOwnNamespace: what should be a pod's network namespace is this node's.
	ErrOwnNamespace = errors.New("the network namespace is this node's own, not a pod's")

	// ErrRecord: something does not fit into a link's record, or the record of a link is not one.
	ErrRecord = errors.New("not a pod record")

	// ErrNoIPv6: the kernel runs without IPv6.
	ErrNoIPv6 = errors.New("the kernel runs without IPv6 (ipv6.disable=1?)")

	// ErrNotFound: there is no such link.
	ErrNotFound = errors.New("no such link")

	// ErrNoEnd: a pod's interface has no other end on this node that a program could guard.
	ErrNoEnd = errors.New("the interface has no veth end on this node: policies cannot be enforced there")

	// ErrForeign: something that is not Polder's is in the way. It is left alone.
	ErrForeign = errors.New("something that is not Polder's is in the way")
)

// maxErrors bounds how many errors of one kind a Sync reports.
const maxErrors = 10

// errorList collects the errors of rows, so that one row does not stop the others.
type errorList struct {
	errs []error
	more int
}

func (l *errorList) add(err error) {
	switch {
	case err == nil:
	case len(l.errs) < maxErrors:
		l.errs = append(l.errs, err)
	default:
		l.more++
	}
}

func (l *errorList) err() error {
	if l.more > 0 {
		return errors.Join(append(l.errs, fmt.Errorf("and %d more", l.more))...)
	}
	return errors.Join(l.errs...)
}
