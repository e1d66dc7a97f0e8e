package datapath

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/desired"
)

// mend makes a frame what a sender's stack makes of it: lengths and checksums are right. It says whether there was
// anything of which they could be.
func mend(b []byte) bool {
	if len(b) < 34 {
		return false
	}
	switch ethertype := binary.BigEndian.Uint16(b[12:]); {
	case ethertype == 0x0800 && b[14]>>4 == 4:
		length := 14 + int(b[14]&15)*4
		if length < 34 || length > len(b) {
			return false
		}
		binary.BigEndian.PutUint16(b[16:], uint16(len(b)-14))
		b[24], b[25] = 0, 0
		binary.BigEndian.PutUint16(b[24:], checksum(b[14:length]))
	case ethertype == 0x86dd && b[14]>>4 == 6 && len(b) >= 54:
		binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
	default:
		return false
	}
	s, err := readIP(b[14:])
	if err != nil {
		return false
	}
	at, ok := map[byte]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMP6: 2}[s.proto]
	if ok && !s.fragment && len(s.l4) >= at+2 {
		s.l4[at], s.l4[at+1] = 0, 0
		binary.BigEndian.PutUint16(s.l4[at:], l4Sum(s.src.Addr(), s.dst.Addr(), s.proto, s.l4))
	}
	_, err = read(b)
	return err == nil
}

// Whatever comes in, nothing breaks; and what had right checksums has right ones where it is delivered or answered.
func FuzzPacketsWithServices(f *testing.F) {
	d := servedOf(f)
	programs := []desired.Program{desired.FromPod, desired.FromNetwork, desired.ToPod, desired.ToNetwork, desired.FromTunnel}
	for _, fam := range families() {
		for _, fr := range []frame{
			fam.packet("10.0.1.2:5", "10.96.0.1:80"), fam.packet("10.0.1.3:8080", "10.0.1.2:5", flags(tcpSYN|tcpACK)),
			fam.packet("10.0.1.2:5", "10.96.0.5:80"), fam.packet("10.0.1.2:5", "10.96.0.6:80"), fam.packet("10.0.1.2:5", "10.96.0.99:80"),
			fam.packet("198.51.100.7:5", "192.0.2.1:30080"), fam.packet("198.51.100.7:5", "203.0.113.6:80"), fam.packet("198.51.100.7:5", "203.0.113.7:80"),
			fam.about("10.0.1.3", "10.0.1.2:5", "10.0.1.3:8080", 8), fam.about("198.51.100.1", "203.0.113.6:80", "198.51.100.7:5", 100),
			fam.parts("10.0.1.2:5", "10.96.0.1:80", 1)[0], fam.parts("10.0.1.2:5", "10.96.0.1:80", 1)[1],
		} {
			for p := range programs {
				f.Add(fr.bytes(), byte(p))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, program byte) {
		if len(b) < 14 || len(b) > 1500 {
			return
		}
		sound := mend(b)
		v, err := d.Run(programs[int(program)%len(programs)], lo, b)
		if err != nil || !sound || strings.HasPrefix(v.Outcome, "drop") {
			return // the kernel refuses to run so short a frame
		}
		if _, err := read(v.Packet); err != nil {
			t.Fatalf("%s: %v\nin  % x\nout % x", v.Outcome, err, b, v.Packet)
		}
	})
}
