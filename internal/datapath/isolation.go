package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/policy"
)

// Isolation is what a running datapath's endpoints say of policies, seen from outside its agent. It changes nothing.
type Isolation struct{ endpoints *ebpf.Map }

// OpenIsolation opens the map that is pinned below dir and has the layout of this build: of another, nothing could be said.
func OpenIsolation(dir string) (*Isolation, error) {
	spec, err := loadBpf()
	i := &Isolation{}
	if err == nil {
		i.endpoints, err = ebpf.LoadPinnedMap(filepath.Join(dir, "maps", pinName(spec, bpfMapEndpoints)), &ebpf.LoadPinOptions{ReadOnly: true})
	}
	if err != nil {
		return nil, fmt.Errorf("open map %s: %w", bpfMapEndpoints, err)
	}
	return i, nil
}

// Close lets go of the map.
func (i *Isolation) Close() error { return i.endpoints.Close() }

// Of is what packets of an address of this node are judged by, and whether there is such an address. Of a pod that has
// these rulesets, all rows that they need are in the maps: they are written first.
func (i *Isolation) Of(a netip.Addr) (s policy.Subject, ok bool, err error) {
	var e bpfEndpoint
	if err := i.endpoints.Lookup(encodeAddr(a), &e); errors.Is(err, ebpf.ErrKeyNotExist) {
		return s, false, nil
	} else if err != nil {
		return s, false, fmt.Errorf("read endpoint %s: %w", a, err)
	}
	return policy.Subject{Ingress: policy.ID(e.Ingress), Egress: policy.ID(e.Egress)}, true, nil
}
