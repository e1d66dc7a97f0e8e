package netdev

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

const (
	linkPrefix = cluster.LinkPrefix
	linkDigits = 11 // with the prefix 14, of 15 that the kernel allows (IFNAMSIZ)

	recordPlain  = "pdr2"
	recordBehind = "b" // follows it where another plugin made the link
	recordShaped = "s" // and this, where somebody limits the pod's bandwidth by queues on its link
	recordMax    = 255 // bytes; the kernel keeps no longer alias (IFALIASZ)
	hashMark     = "#" // of a word that stands for a pod's name

	// The first words of records without a checksum: agents before wrote them, and their pods may still run.
	unsummedPlain  = "polder1"
	unsummedShaped = "polder1,shaped"

	sumDigits = 8
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
//	pdr2[b][s] <network> <containerID> <ifname> <address[,address]> [<namespace>/<name> [<UID>]] <checksum>
//
// Where the Kubernetes pod's name does not fit, "#" and its hash stand for it: which policies a pod has must not be
// forgotten. Of its UID there is only a hash, or nothing where not even that fits.
func encodeRecord(p cluster.LocalPod) (string, error) {
	addrs := make([]string, len(p.Addresses))
	for i, a := range p.Addresses {
		if !isPodAddress(a) {
			return "", fmt.Errorf("write pod record: address %s: %w", a, ErrRecord)
		}
		addrs[i] = a.String()
	}
	words := []string{recordVersion(p), p.Network, p.ContainerID, p.Ifname, strings.Join(addrs, ",")}
	for _, w := range words {
		if !isWord(w) {
			return "", fmt.Errorf("write pod record: %q is empty or holds a blank: %w", w, ErrRecord)
		}
	}
	text := strings.Join(words, " ")
	most := recordMax - len(" ") - sumDigits
	if len(text) > most {
		return "", fmt.Errorf("write pod record: %d bytes, at most %d: %w", len(text), most, ErrRecord)
	}
	if pod := recordPod(p, most-len(text)-1); pod != "" {
		text += " " + pod
	}
	if len(text) > most {
		return "", fmt.Errorf("write pod record: %d bytes with the pod's name, at most %d: %w", len(text), most, ErrRecord)
	}
	return text + " " + checksum(text), nil
}

func recordVersion(p cluster.LocalPod) string {
	version := recordPlain
	if p.Behind {
		version += recordBehind
	}
	if p.Shaped {
		version += recordShaped
	}
	return version
}

// recordPod is what stands for the Kubernetes pod in so many bytes; empty: there is none.
func recordPod(p cluster.LocalPod, most int) string {
	name, hash := p.Namespace+"/"+p.Name, hashMark+cluster.HashName(p.Namespace, p.Name)
	if !isWord(p.Namespace) || !isWord(p.Name) || strings.Contains(p.Namespace+p.Name, "/") {
		if p.NameHash == "" {
			return ""
		}
		hash = hashMark + p.NameHash
		name = hash
	}
	best := []string{name, hash}
	if isWord(p.UID) {
		best = []string{name + " " + p.UID, hash + " " + p.UID, name, hash}
	}
	for _, text := range best {
		if len(text) <= most {
			return text
		}
	}
	return hash
}

// isBehindRecord says whether an alias is, or was before somebody damaged its end, the record of a pod that is another
// plugin's.
func isBehindRecord(alias string) bool { return strings.HasPrefix(alias, recordPlain+recordBehind) }

// checksum tells a record that was cut off or altered: what is left of one may read as another address.
func checksum(text string) string {
	return fmt.Sprintf("%0*x", sumDigits, crc32.ChecksumIEEE([]byte(text)))
}

// decodeRecord reads a record. What it returns has the fields that a record holds, and no others.
func decodeRecord(record string) (cluster.LocalPod, error) {
	words, err := recordWords(record)
	if err != nil {
		return cluster.LocalPod{}, fmt.Errorf("read %q: %w", record, err)
	}
	p := cluster.LocalPod{Network: words[1], ContainerID: words[2], Ifname: words[3]}
	kind := strings.TrimPrefix(words[0], recordPlain)
	p.Behind = strings.HasPrefix(kind, recordBehind)
	p.Shaped = strings.HasSuffix(kind, recordShaped) || words[0] == unsummedShaped
	for a := range strings.SplitSeq(words[4], ",") {
		addr, err := netip.ParseAddr(a)
		if err != nil || !isPodAddress(addr) {
			return cluster.LocalPod{}, fmt.Errorf("read %q: address %q: %w", record, a, ErrRecord)
		}
		p.Addresses = append(p.Addresses, addr)
	}
	if len(words) < 6 {
		return p, nil
	}
	if len(words) == 7 {
		p.UID = words[6]
	}
	if hash, ok := strings.CutPrefix(words[5], hashMark); ok {
		p.NameHash = hash
		return p, nil
	}
	ns, name, ok := strings.Cut(words[5], "/")
	if !ok || !isWord(ns) || !isWord(name) || strings.Contains(name, "/") {
		return cluster.LocalPod{}, fmt.Errorf("read %q: pod %q: %w", record, words[5], ErrRecord)
	}
	p.Namespace, p.Name = ns, name
	return p, nil
}

// recordWords splits a record of either version into its five to seven words, without the checksum.
func recordWords(record string) ([]string, error) {
	if len(record) > recordMax {
		return nil, ErrRecord
	}
	text, most := record, 7
	switch version, _, _ := strings.Cut(record, " "); version {
	case recordPlain, recordPlain + recordShaped, recordPlain + recordBehind, recordPlain + recordBehind + recordShaped:
		end := strings.LastIndexByte(record, ' ')
		if end < 0 || record[end+1:] != checksum(record[:end]) {
			return nil, fmt.Errorf("its checksum is wrong: %w", ErrRecord)
		}
		text = record[:end]
	case unsummedPlain, unsummedShaped:
		most = 6 // they never had a UID
	default:
		return nil, ErrRecord
	}
	words := strings.Split(text, " ")
	if len(words) < 5 || len(words) > most {
		return nil, ErrRecord
	}
	for _, w := range words {
		if !isWord(w) {
			return nil, ErrRecord
		}
	}
	return words, nil
}

// isPodAddress says whether an address can be a pod's, and is written in one way alone.
func isPodAddress(a netip.Addr) bool { return a.IsValid() && a.Zone() == "" && !a.Is4In6() }

// isWord says whether s is printable ASCII without blanks, as everything that CNI and Kubernetes name is.
func isWord(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
