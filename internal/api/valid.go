package api

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The longest texts that a request may carry. A link's record (its ifalias) has 255 bytes for all of them and two
// addresses ("pdr2s", blanks, one of each family, a checksum), hence the limit on the three of an attachment together.
const (
	maxNetwork     = 63
	maxContainerID = 128
	maxIfname      = 15 // IFNAMSIZ with its NUL
	maxAttachment  = 182
	maxNamespace   = 63
	maxPodName     = 253
	maxPodUID      = 253 // of which a record has a hash
)

// Validate says what in a request cannot be. Each text of a request becomes a name, a path or a part of a record
// somewhere, so client and server both check them all.
func (r *Request) Validate() error {
	switch r.Verb {
	case Add, Del, Check, Reserve, Release, Reserved:
		if err := r.Attachment.Validate(); err != nil {
			return err
		}
	case GC:
		if err := r.validateGC(); err != nil {
			return err
		}
	case Status, Report, Services, Trace, Drops: // about no network, or one
		if r.Network != "" {
			if err := ValidateNetwork(r.Network); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("unknown verb %q", r.Verb)
	}
	if r.Verb == Trace && r.Trace == nil {
		return errors.New("nothing is said about what to trace")
	}
	if r.Behind && (r.Verb != Add && r.Verb != Check || len(r.Addresses) == 0) {
		return fmt.Errorf("%s behind another plugin with the addresses %v cannot be", r.Verb, r.Addresses)
	}
	return errors.Join(ValidatePod(r.PodNamespace, r.PodName), ValidatePodUID(r.PodUID), r.validateLink(), r.Services.validate(), r.Trace.validate())
}

func (r *Request) validateGC() error {
	if err := ValidateNetwork(r.Network); err != nil {
		return err
	}
	if r.Valid == nil {
		return errors.New("no list of valid attachments")
	}
	for _, a := range r.Valid {
		if err := a.Validate(); err != nil {
			return err
		}
		if a.Network != r.Network {
			return fmt.Errorf("valid attachment of network %q, not %q", a.Network, r.Network)
		}
	}
	return nil
}

// validateLink checks what a link has: addresses, routes and ends.
func (r *Request) validateLink() error {
	for _, a := range r.Addresses {
		if err := a.Validate(); err != nil {
			return err
		}
	}
	for _, route := range r.Routes {
		if err := route.Validate(); err != nil {
			return err
		}
	}
	return errors.Join(r.Host.validate(), r.Pod.validate(), ValidatePorts(r.PortMappings))
}

// Validate says what in an attachment cannot be.
func (a Attachment) Validate() error {
	if err := errors.Join(ValidateNetwork(a.Network), ValidateContainerID(a.ContainerID), ValidateIfname(a.Ifname)); err != nil {
		return err
	}
	if n := len(a.Network) + len(a.ContainerID) + len(a.Ifname); n > maxAttachment {
		return fmt.Errorf("network name, container ID and interface name are %d bytes together, at most %d fit", n, maxAttachment)
	}
	return nil
}

// ValidateNetwork checks the name of a network configuration.
func ValidateNetwork(name string) error { return validateName("network name", name, maxNetwork) }

// ValidateContainerID checks CNI_CONTAINERID.
func ValidateContainerID(id string) error { return validateName("container ID", id, maxContainerID) }

// validateName is the rule of the CNI specification for network names and container IDs: alphanumeric, then
// alphanumeric, underscore, dot or hyphen; in ASCII.
func validateName(what, name string, limit int) error {
	if name == "" {
		return fmt.Errorf("no %s", what)
	}
	if len(name) > limit {
		return fmt.Errorf("%s of %d bytes, at most %d fit", what, len(name), limit)
	}
	for i := range len(name) {
		if !alphanumeric(name[i]) && (i == 0 || !strings.ContainsRune("_.-", rune(name[i]))) {
			return fmt.Errorf("%s %q: byte %d may not be there", what, name, i)
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// ValidateIfname checks the name of an interface: the kernel's rules (dev_valid_name), what JSON can carry, and no
// per cent sign, which the kernel takes for a template ("eth%d").
func ValidateIfname(name string) error {
	if name == "" {
		return errors.New("no interface name")
	}
	if len(name) > maxIfname {
		return fmt.Errorf("interface name of %d bytes, at most %d fit", len(name), maxIfname)
	}
	if name == "." || name == ".." || !utf8.ValidString(name) {
		return fmt.Errorf("interface name %q may not be", name)
	}
	for _, c := range name {
		if c == '/' || c == ':' || c == '%' || unicode.IsSpace(c) || !unicode.IsPrint(c) {
			return fmt.Errorf("interface name %q: %q may not be there", name, c)
		}
	}
	return nil
}

// ValidatePod checks the names of a Kubernetes pod as far as a record needs it: both or none, and nothing but what
// names of Kubernetes objects consist of.
func ValidatePod(namespace, name string) error {
	if (namespace == "") != (name == "") {
		return fmt.Errorf("pod %q in namespace %q: one of the two is missing", name, namespace)
	}
	if len(namespace) > maxNamespace || len(name) > maxPodName {
		return fmt.Errorf("pod name of %d and namespace of %d bytes, at most %d and %d fit", len(name), len(namespace), maxPodName, maxNamespace)
	}
	for _, c := range []byte(namespace + name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return fmt.Errorf("pod %q in namespace %q: %q may not be there", name, namespace, c)
		}
	}
	return nil
}

// ValidatePodUID checks the UID of a Kubernetes pod, which may be any text that JSON can carry.
func ValidatePodUID(uid string) error {
	if len(uid) > maxPodUID || !utf8.ValidString(uid) {
		return fmt.Errorf("pod UID of %d bytes %.40q cannot be", len(uid), uid)
	}
	return nil
}

// Validate says why an address cannot be a pod's.
func (a Address) Validate() error {
	addr := a.Prefix.Addr()
	if !a.Prefix.IsValid() {
		return errors.New("no address")
	}
	if !unicast(addr) || addr.IsLinkLocalUnicast() {
		return fmt.Errorf("address %s cannot be a pod's", a.Prefix)
	}
	if gw := a.Gateway; gw.IsValid() && (!unicast(gw) || gw.Is4() != addr.Is4()) {
		return fmt.Errorf("gateway %s cannot be that of %s", gw, a.Prefix)
	}
	return nil
}

// Validate says why a route cannot be.
func (r Route) Validate() error {
	if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() || r.Dst.Addr().Is4In6() {
		return fmt.Errorf("route to %s cannot be", r.Dst)
	}
	if via := r.Via; via.IsValid() && (!unicast(via) || via.Is4() != r.Dst.Addr().Is4()) {
		return fmt.Errorf("route to %s cannot go via %s", r.Dst, via)
	}
	if r.MTU < 0 {
		return fmt.Errorf("route to %s with MTU %d cannot be", r.Dst, r.MTU)
	}
	return nil
}

// unicast tells whether an address can be that of a node or a pod, in its plain form.
func unicast(a netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && a.Zone() == "" && a != broadcast
}

func (i *Interface) validate() error {
	if i == nil {
		return nil
	}
	if err := ValidateIfname(i.Name); err != nil {
		return err
	}
	if mac, err := net.ParseMAC(i.MAC); i.MAC != "" && (err != nil || len(mac) != 6) {
		return fmt.Errorf("interface %s with MAC address %q cannot be", i.Name, i.MAC)
	}
	if i.MTU < 0 {
		return fmt.Errorf("interface %s with MTU %d cannot be", i.Name, i.MTU)
	}
	return nil
}
