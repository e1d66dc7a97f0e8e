package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Reservation is an address that is taken without a link of ours: held for another plugin's link, or cooling down
// after its pod went. It lives in a pinned map, so that it outlives the agent and ends with the kernel.
type Reservation struct {
	Network, ContainerID, Ifname string

	// Freed is the time since boot (CLOCK_BOOTTIME) at which the address was freed; 0: it is held.
	Freed time.Duration
}

// Reservations lists them all.
func (d *Datapath) Reservations() (map[netip.Addr]Reservation, error) {
	have := map[netip.Addr]Reservation{}
	var key bpfAddr
	var value bpfReservation
	it := d.maps[bpfMapReserved].Iterate()
	for it.Next(&key, &value) {
		have[decodeAddr(key)] = decodeReservation(value)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list reservations: %w", err)
	}
	return have, nil
}

// PutReservation writes one.
func (d *Datapath) PutReservation(a netip.Addr, r Reservation) error {
	entry, err := encodeReservation(r)
	if err != nil {
		return err
	}
	if err := d.maps[bpfMapReserved].Put(encodeAddr(a), entry); err != nil {
		return fmt.Errorf("write reservation of %s: %w", a, err)
	}
	return nil
}

// DeleteReservation removes one, if it is there.
func (d *Datapath) DeleteReservation(a netip.Addr) error {
	err := d.maps[bpfMapReserved].Delete(encodeAddr(a))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete reservation of %s: %w", a, err)
	}
	return nil
}

// SinceBoot is the clock of reservations: it goes on while the machine sleeps and never jumps.
func SinceBoot() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

func encodeReservation(r Reservation) (e bpfReservation, err error) {
	if len(r.Network) > len(e.Network) || len(r.ContainerID) > len(e.Container) || len(r.Ifname) > len(e.Ifname) {
		return e, fmt.Errorf("write reservation of %s/%s: names too long", r.Network, r.ContainerID)
	}
	e.Freed = uint64(r.Freed)
	copy(e.Network[:], r.Network)
	copy(e.Container[:], r.ContainerID)
	copy(e.Ifname[:], r.Ifname)
	return e, nil
}

func decodeReservation(e bpfReservation) Reservation {
	return Reservation{
		Network:     unix.ByteSliceToString(e.Network[:]),
		ContainerID: unix.ByteSliceToString(e.Container[:]),
		Ifname:      unix.ByteSliceToString(e.Ifname[:]),
		Freed:       time.Duration(e.Freed),
	}
}
