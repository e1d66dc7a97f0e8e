package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// HostPort says where a port of this node leads. Its key is a Frontend, with an unspecified address for all of the node's
// in that family. It lives in a pinned map, so that it outlives the agent and ends with the kernel.
type HostPort struct {
	Pod  netip.AddrPort
	Link string // host side of the pod's link
}

// HostPorts lists them all.
func (d *Datapath) HostPorts() (map[service.Frontend]HostPort, error) {
	var rows map[bpfHostportKey]bpfHostport
	if err := readTable(d.maps[bpfMapHostports], &rows); err != nil {
		return nil, fmt.Errorf("list host ports: %w", err)
	}
	have := make(map[service.Frontend]HostPort, len(rows))
	for k, v := range rows {
		have[decodeHostPortKey(k)] = decodeHostPort(v)
	}
	return have, nil
}

// HostPort finds one.
func (d *Datapath) HostPort(f service.Frontend) (h HostPort, ok bool, err error) {
	var row bpfHostport
	err = d.maps[bpfMapHostports].Lookup(encodeHostPortKey(f), &row)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return h, false, nil
	}
	if err != nil {
		return h, false, fmt.Errorf("find host port %s: %w", f, err)
	}
	return decodeHostPort(row), true, nil
}

// PutHostPort writes one.
func (d *Datapath) PutHostPort(f service.Frontend, h HostPort) error {
	row, err := encodeHostPort(h)
	if err == nil {
		err = d.maps[bpfMapHostports].Put(encodeHostPortKey(f), row)
	}
	if err != nil {
		return fmt.Errorf("write host port %s: %w", f, err)
	}
	return nil
}

// DeleteHostPort removes one, if it is there.
func (d *Datapath) DeleteHostPort(f service.Frontend) error {
	err := d.maps[bpfMapHostports].Delete(encodeHostPortKey(f))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete host port %s: %w", f, err)
	}
	return nil
}

func encodeHostPortKey(f service.Frontend) bpfHostportKey {
	return bpfHostportKey{Addr: encodeAddr(f.Addr), Port: encodePort(f.Port), Proto: uint8(f.Protocol)}
}

func decodeHostPortKey(k bpfHostportKey) service.Frontend {
	f := service.Frontend{Addr: decodeAddr(k.Addr), Port: encodePort(k.Port), Protocol: cluster.Protocol(k.Proto)}
	if !f.Addr.IsValid() {
		f.Addr = netip.IPv6Unspecified() // here alone it says something
	}
	return f
}

func encodeHostPort(h HostPort) (row bpfHostport, err error) {
	if len(h.Link) > len(row.Link) {
		return row, fmt.Errorf("link %s: the name is too long", h.Link)
	}
	row.Pod, row.Port = encodeAddr(h.Pod.Addr()), encodePort(h.Pod.Port())
	copy(row.Link[:], h.Link)
	return row, nil
}

func decodeHostPort(row bpfHostport) HostPort {
	return HostPort{Pod: decodeAddrPort(row.Pod, row.Port), Link: unix.ByteSliceToString(row.Link[:])}
}
