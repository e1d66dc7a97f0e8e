package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// Denial is a packet that a policy did not let pass.
type Denial struct {
	Protocol            cluster.Protocol
	Source, Destination netip.AddrPort // of ICMP, the source's port is the type
	Ingress             bool           // into the pod; else out of it
	Ruleset             policy.ID      // that denied it; policy.Closed: the pod has none that it may have
	Decision            policy.Decision
	Index               int // of the pod's link
}

// Denials calls tell with every packet that is denied from now on, until the context ends. Where they come faster than
// they are read, some are missing: Denied counts them all. It may run beside everything else, once.
func (d *Datapath) Denials(ctx context.Context, tell func(Denial)) error {
	r, err := ringbuf.NewReader(d.maps[bpfMapDenials])
	if err != nil {
		return fmt.Errorf("read denials: %w", err)
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer stop()
	var record ringbuf.Record
	for {
		if err := r.ReadInto(&record); errors.Is(err, os.ErrClosed) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read denials: %w", err)
		}
		one, err := decodeDenial(record.RawSample)
		if err != nil {
			return err
		}
		tell(one)
	}
}

func decodeDenial(sample []byte) (Denial, error) {
	var e bpfDenial
	if err := binary.Read(bytes.NewReader(sample), binary.NativeEndian, &e); err != nil {
		return Denial{}, fmt.Errorf("read denial of %d bytes: %w", len(sample), err)
	}
	t := e.Tuple
	return Denial{Protocol: cluster.Protocol(t.Proto), Source: decodeAddrPort(t.Src, t.Sport), Destination: decodeAddrPort(t.Dst, t.Dport),
		Ingress: e.Ingress == 1, Ruleset: policy.ID(e.Ruleset), Decision: policy.Decision(e.Decision), Index: int(e.Ifindex)}, nil
}

// DeniedKey is what denied packets are counted by.
type DeniedKey struct {
	Ruleset  policy.ID
	Decision policy.Decision
	Index    int // of the pod's link
}

// Denied returns how many packets policies did not let pass. Of very many keys, those whose last packet is longest ago may
// be missing.
func (d *Datapath) Denied() (map[DeniedKey]uint64, error) {
	counts := map[DeniedKey]uint64{}
	err := eachRow(d.maps[bpfMapDenied], func(k bpfDeniedKey, n uint64) {
		counts[DeniedKey{policy.ID(k.Ruleset), policy.Decision(k.Decision), int(k.Ifindex)}] = n
	})
	if err != nil {
		return nil, fmt.Errorf("read counters of denials: %w", err)
	}
	return counts, nil
}
