package netdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// sign is a table or chain of nftables by which somebody is known. iptables writes its tables and chains there, too.
type sign struct {
	who          string
	family       uint8
	table, chain string // no chain: the table says it
}

func (s sign) String() string {
	family := familyName(s.family)
	if s.chain == "" {
		return fmt.Sprintf("nftables table %s %s", family, s.table)
	}
	return fmt.Sprintf("chain %s in table %s %s", s.chain, family, s.table)
}

func familyName(family uint8) string {
	if family == unix.NFPROTO_IPV4 {
		return "ip"
	}
	return "ip6"
}

func signs() []sign {
	var list []sign
	for _, family := range []uint8{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		list = append(list, sign{cluster.KubeProxy, family, kubeProxyTable, ""},
			sign{cluster.KubeProxy, family, "nat", "KUBE-SERVICES"}, sign{cluster.KubeProxy, family, "nat", "KUBE-NODEPORTS"},
			sign{"portmap", family, "cni_hostport", ""}, sign{"portmap", family, "nat", "CNI-HOSTPORT-DNAT"})
	}
	return list
}

// ask is a question whether the sign is there.
func (s sign) ask() *message {
	if s.chain == "" {
		return newMessage(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, 0, nfBody(s.family)).
			text(unix.NFTA_TABLE_NAME, s.table)
	}
	return newMessage(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, 0, nfBody(s.family)).
		text(unix.NFTA_CHAIN_TABLE, s.table).text(unix.NFTA_CHAIN_NAME, s.chain)
}

// nfBody is struct nfgenmsg.
func nfBody(family uint8) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

// netfilter opens a socket to netfilter, the caller's to close.
func (k *Kernel) netfilter() (c *conn, err error) {
	err = visit(k.netns, func() (err error) {
		c, err = dialTo(unix.NETLINK_NETFILTER)
		return err
	})
	return c, err
}

// Translators lists who else rewrites destinations in the kernel's conntrack: by their rules, and while none are left,
// by the flows that they began. It looks names up and lists nothing, so it may be asked often; once there are no such
// flows, it looks for them again only after it has seen rules.
func (k *Kernel) Translators() ([]cluster.Translator, error) {
	c, err := k.netfilter()
	if err != nil {
		return nil, fmt.Errorf("look for others that translate: %w", err)
	}
	defer c.close()
	found, err := k.translatorRules(c)
	if err != nil {
		return nil, fmt.Errorf("look for others that translate: %w", err)
	}
	if len(found) == 0 && !k.untranslated.Load() {
		translated, err := c.hasTranslatedFlow()
		if err != nil {
			return nil, fmt.Errorf("look for flows that others translate: %w", err)
		}
		if translated {
			found = append(found, cluster.Translator{Who: "connections of an earlier proxy", Where: "conntrack"})
		}
	}
	k.untranslated.Store(len(found) == 0)
	return found, nil
}

func (k *Kernel) translatorRules(c *conn) ([]cluster.Translator, error) {
	found, err := c.findSigns()
	if err != nil {
		return nil, err
	}
	legacy, err := k.legacyNAT()
	if err != nil {
		return nil, err
	}
	for _, family := range legacy {
		found = append(found, cluster.Translator{Who: "iptables", Where: "legacy table " + family + " nat"})
	}
	for _, name := range []string{ipvsLink, "kube-dummy-if"} { // kube-proxy's in its mode ipvs; kube-router's
		if _, err := k.linkNamed(name); err == nil {
			who := cluster.KubeProxy
			if name != ipvsLink {
				who = "kube-router"
			}
			found = append(found, cluster.Translator{Who: who, Where: "link " + name})
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return found, nil
}

// findSigns asks for all signs at once. Of one in a family, the first counts.
func (c *conn) findSigns() ([]cluster.Translator, error) {
	list := signs()
	messages := make([]*message, len(list))
	for i, s := range list {
		messages[i] = s.ask()
	}
	replies, err := c.batch(messages)
	if err != nil {
		return nil, err
	}
	var found []cluster.Translator
	var last sign
	for i, r := range replies {
		s := list[i]
		if r.err != nil && !errors.Is(r.err, unix.ENOENT) && !isMissing(r.err) {
			return nil, fmt.Errorf("find %s: %w", s, r.err)
		}
		if r.err == nil && (s.who != last.who || s.family != last.family) {
			found, last = append(found, cluster.Translator{Who: s.who, Where: s.String()}), s
		}
	}
	return found, nil
}

// isMissing says whether the kernel has no such subsystem (nfnetlink_rcv_msg).
func isMissing(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// legacyNAT lists the families that have a table "nat" of the iptables from before nftables. Whose rules are in it would
// take a copy of it all; that it is there is reason enough to ask the conntrack.
func (k *Kernel) legacyNAT() (families []string, err error) {
	err = visit(k.netns, func() error {
		for _, family := range []string{"ip", "ip6"} {
			names, err := os.ReadFile(filepath.Join("/proc/thread-self/net", family+"_tables_names"))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			for line := range bytes.Lines(names) {
				if string(bytes.TrimSpace(line)) == "nat" {
					families = append(families, family)
				}
			}
		}
		return nil
	})
	return families, err
}

// Of include/uapi/linux/netfilter: nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	ctnetlinkGet = 1 // IPCTNL_MSG_CT_GET

	ctaStatus     = 3
	ctaStatusMask = 26

	statusDstNAT = 1 << 5 // IPS_DST_NAT
)

// hasTranslatedFlow says whether the conntrack has a flow whose destination somebody rewrote. The kernel filters; one
// before 5.8 does not, so answers are looked at. The first is enough: closing the socket ends the rest.
func (c *conn) hasTranslatedFlow() (bool, error) {
	be32 := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	m := newMessage(unix.NFNL_SUBSYS_CTNETLINK<<8|ctnetlinkGet, 0, nfBody(unix.AF_UNSPEC)).
		raw(ctaStatus, be32(statusDstNAT)).raw(ctaStatusMask, be32(statusDstNAT))
	c.seq++
	c.out = m.appendTo(c.out[:0], unix.NLM_F_DUMP, c.seq)
	if err := c.send(); err != nil {
		return false, err
	}
	var answer error
	found := false
	for done := false; !done && !found; {
		err := c.receive(func(h header, body []byte) {
			switch {
			case h.seq != c.seq || done:
			case h.typ == unix.NLMSG_ERROR, h.typ == unix.NLMSG_DONE:
				done, answer = true, parseError(h, body)
			default:
				found = found || isTranslatedFlow(body)
			}
		})
		if err != nil {
			return false, err
		}
	}
	if isMissing(answer) {
		return false, nil
	}
	return found, answer
}

func isTranslatedFlow(b []byte) bool {
	for typ, value := range attributes(b[min(len(b), len(nfBody(0))):]) {
		if typ == ctaStatus && len(value) == 4 {
			return binary.BigEndian.Uint32(value)&statusDstNAT != 0
		}
	}
	return false
}
