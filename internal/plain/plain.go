// Package plain has the few words that the CNI plugin and the agent share, and needs nothing but the standard library: the
// plugin is started for every verb of every pod.
package plain

import (
	"crypto/sha256"
	"encoding/hex"
)

// Protocol is an IP protocol number (IANA).
type Protocol uint8

// The protocols that have ports here.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "unknown"
}

// LinkPrefix begins the name of every pod's link.
const LinkPrefix = "pdr"

// LinkName is the name of the host side of an attachment's link: the same for every ADD of it, and known without asking
// anybody. The parts hold no slash, so different attachments have different texts. 14 bytes of the 15 that the
// kernel allows.
func LinkName(network, containerID, ifname string) string {
	sum := sha256.Sum256([]byte(network + "/" + containerID + "/" + ifname))
	return LinkPrefix + hex.EncodeToString(sum[:])[:11]
}
