package rig

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The kernel's own VXLAN device, all of it static: nothing is learned.
const (
	vxlanName = "vxlan0"
	vxlanID   = 4242
	vxlanPort = 4789
	vxlanMTU  = mtu - 50
)

// addVXLAN makes the device in the current namespace, up. Polder leaves the outer checksum out, so it is left out
// here, too; the netlink library has no word for that, and the kernel wants to be told at creation
// (vxlan_nl2conf in drivers/net/vxlan).
func addVXLAN(own netip.Addr, mac net.HardwareAddr) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(vxlanName)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(vxlanMTU)))
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("vxlan"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_VXLAN_ID, nl.Uint32Attr(vxlanID))
	data.AddRtAttr(nl.IFLA_VXLAN_LOCAL, own.AsSlice())
	data.AddRtAttr(nl.IFLA_VXLAN_TTL, nl.Uint8Attr(64))
	data.AddRtAttr(nl.IFLA_VXLAN_LEARNING, nl.Uint8Attr(0))
	data.AddRtAttr(nl.IFLA_VXLAN_UDP_CSUM, nl.Uint8Attr(0))
	data.AddRtAttr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, vxlanPort))
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("add vxlan device: %w", err)
	}
	return setUp(vxlanName)
}

// addTunnelPeer says where the packets for a far device's MAC address go.
func addTunnelPeer(mac net.HardwareAddr, node netip.Addr) error {
	link, err := netlink.LinkByName(vxlanName)
	if err == nil {
		err = netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
			State: netlink.NUD_PERMANENT, IP: node.AsSlice(), HardwareAddr: mac,
		})
	}
	if err != nil {
		return fmt.Errorf("add tunnel peer %s: %w", node, err)
	}
	return nil
}
