package netdev

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzAnswers reads whatever as an answer of the kernel's: no reader may panic or run on for ever.
func FuzzAnswers(f *testing.F) {
	f.Add(newMessage(0, 0, linkBody(1, 1, 0)).text(unix.IFLA_IFNAME, "eth0").nest(unix.IFLA_LINKINFO, func(m *message) {
		m.text(unix.IFLA_INFO_KIND, "vxlan").nest(unix.IFLA_INFO_DATA, func(m *message) { m.be16(unix.IFLA_VXLAN_PORT, 4789) })
	}).nest(unix.IFLA_AF_SPEC, func(m *message) {
		m.nest(unix.AF_INET6, func(m *message) { m.u8(unix.IFLA_INET6_ADDR_GEN_MODE, 1).raw(unix.IFLA_INET6_CONF, make([]byte, 16)) })
	}).body)
	f.Add(putRoute(routeID{prefix: prefix("10.0.0.0/8")}, routeSpec{via: addr("10.0.0.1")}, 1, 0).body)
	f.Add(newMessage(0, 0, rtBody{}.bytes()).raw(unix.RTA_MULTIPATH, []byte{8, 0, 0, 0, 1, 0, 0, 0}).body)
	f.Add(putAddress(1, prefix("fd00::1/64"), 0).body)
	f.Add(putNeighbour(1, addr("fd00::1"), HostMAC()).body)
	f.Add(putRule(ruleID{from: prefix("10.0.0.0/8")}).body)
	f.Add(newMessage(0, 0, filterBody(1, true)).nest(tcaOptions, func(m *message) { m.u32(tcaBPFID, 1).text(tcaBPFName, "x") }).body)
	f.Add(newMessage(1, 2, []byte{1, 2, 3, 4}).appendTo(nil, 0, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		parseLink(b)
		parseAddress(b)
		parseNeighbour(b)
		parseRoute(b, names{})
		parseLookup(b)
		parseRule(b)
		parseFilter(b)
		nftEvent(header{}, b)
		for _, flags := range []uint16{0, unix.NLM_F_ACK_TLVS, unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED} {
			parseError(header{typ: unix.NLMSG_ERROR, flags: flags}, b)
		}
		split(b, func(header, []byte) {})
	})
}
