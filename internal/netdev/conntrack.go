package netdev

import (
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const ctnetlinkGetStats = 5 // IPCTNL_MSG_CT_GET_STATS, include/uapi/linux/netfilter/nfnetlink_conntrack.h

// LoadConntrack has the kernel load its connection tracking, where that is a module: the datapath asks it, and cannot
// be loaded before it is there. A question to its netlink subsystem is enough (nfnetlink_rcv_msg requests the module).
func LoadConntrack() error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|ctnetlinkGetStats, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		return fmt.Errorf("load connection tracking: %w: try modprobe nf_conntrack_netlink", err)
	}
	return nil
}
