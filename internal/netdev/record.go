package netdev

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

const (
	linkPrefix = cluster.LinkPrefix
	linkDigits = 11 // with the prefix 14, of 15 that the kernel allows (IFNAMSIZ)

	recordVersion = "polder1"
	recordShaped  = recordVersion + ",shaped"
	recordMax     = 255 // bytes; the kernel keeps no longer alias (IFALIASZ)
)

// LinkName is the name of the host side of an attachment's link.
func LinkName(network, containerID, ifname string) string {
	return cluster.LinkName(network, containerID, ifname)
}

// isPodLink says whether a name is one that LinkName gives.
func isPodLink(name string) bool {
	digits, ok := strings.CutPrefix(name, linkPrefix)
	if !ok || len(digits) != linkDigits {
		return false
	}
	return strings.Trim(digits, "0123456789abcdef") == ""
}

// podMAC is the address of the pod's end: locally administered, the same for the same attachment. It is given at
// creation because a MAC address of the kernel's choosing invites udev to change it (MACAddressPolicy=persistent).
func podMAC(network, containerID, ifname string) cluster.MAC {
	sum := sha256.Sum256([]byte("mac/" + network + "/" + containerID + "/" + ifname))
	mac := cluster.MAC(sum[:6])
	mac[0] = mac[0]&0xfc | 0x02
	return mac
}

// encodeRecord writes what identifies a pod's attachment, in one line:
//
//	polder1 <network> <containerID> <ifname> <address[,address]> [<namespace>/<name>]
//
// The first word is polder1,shaped for a pod whose bandwidth is limited by queues on its link.
// The Kubernetes pod is left out where it does not fit; everything else must.
func encodeRecord(p cluster.LocalPod) (string, error) {
	addrs := make([]string, len(p.Addresses))
	for i, a := range p.Addresses {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
			return "", fmt.Errorf("write pod record: address %s: %w", a, ErrRecord)
		}
		addrs[i] = a.String()
	}
	version := recordVersion
	if p.Shaped {
		version = recordShaped
	}
	words := []string{version, p.Network, p.ContainerID, p.Ifname, strings.Join(addrs, ",")}
	for _, w := range words {
		if !isWord(w) {
			return "", fmt.Errorf("write pod record: %q is empty or holds a blank: %w", w, ErrRecord)
		}
	}
	record := strings.Join(words, " ")
	if len(record) > recordMax {
		return "", fmt.Errorf("write pod record: %d bytes, at most %d: %w", len(record), recordMax, ErrRecord)
	}
	if !isWord(p.Namespace) || !isWord(p.Name) || strings.Contains(p.Namespace+p.Name, "/") {
		return record, nil
	}
	if full := record + " " + p.Namespace + "/" + p.Name; len(full) <= recordMax {
		return full, nil
	}
	return record, nil
}

// decodeRecord reads a record. What it returns has the fields that a record holds, and no others.
func decodeRecord(record string) (cluster.LocalPod, error) {
	words := strings.Split(record, " ")
	if len(words) < 5 || len(words) > 6 || words[0] != recordVersion && words[0] != recordShaped || len(record) > recordMax {
		return cluster.LocalPod{}, fmt.Errorf("read %q: %w", record, ErrRecord)
	}
	for _, w := range words {
		if !isWord(w) {
			return cluster.LocalPod{}, fmt.Errorf("read %q: %w", record, ErrRecord)
		}
	}
	p := cluster.LocalPod{Network: words[1], ContainerID: words[2], Ifname: words[3], Shaped: words[0] == recordShaped}
	for a := range strings.SplitSeq(words[4], ",") {
		addr, err := netip.ParseAddr(a)
		if err != nil || addr.Zone() != "" || addr.Is4In6() {
			return cluster.LocalPod{}, fmt.Errorf("read %q: address %q: %w", record, a, ErrRecord)
		}
		p.Addresses = append(p.Addresses, addr)
	}
	if len(words) == 6 {
		ns, name, ok := strings.Cut(words[5], "/")
		if !ok || !isWord(ns) || !isWord(name) || strings.Contains(name, "/") {
			return cluster.LocalPod{}, fmt.Errorf("read %q: pod %q: %w", record, words[5], ErrRecord)
		}
		p.Namespace, p.Name = ns, name
	}
	return p, nil
}

// isWord says whether s is printable ASCII without blanks, as everything that CNI and Kubernetes name is.
func isWord(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
