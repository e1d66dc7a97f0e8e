package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// portOf finds the port that is asked for.
func (e end) portOf(q Question) (uint16, error) {
	if q.Protocol == ICMP {
		if q.Port != "" {
			return 0, errors.New("ICMP has no ports")
		}
		return 0, nil
	}
	if n, err := strconv.ParseUint(q.Port, 10, 16); err == nil && n > 0 {
		return uint16(n), nil
	} else if strings.Trim(q.Port, "0123456789") == "" && q.Port != "" {
		return 0, fmt.Errorf("%s is not a port: want 1 to 65535", q.Port)
	}
	var numbers []uint16 // that can be meant
	for _, p := range e.ports() {
		if p.protocol == q.Protocol && (q.Port == "" || p.name == q.Port) && !slices.Contains(numbers, p.number) {
			numbers = append(numbers, p.number)
		}
	}
	switch {
	case len(numbers) == 1:
		return numbers[0], nil
	case q.Port == "" && len(numbers) == 0 && e.service != nil:
		return 0, fmt.Errorf("%s has no %s port%s", e.label(), q.Protocol, e.hasPorts())
	case q.Port == "" && len(numbers) == 0 && e.pod == nil:
		return 0, fmt.Errorf("say which port: %s", withPort(q.To))
	case q.Port == "" && len(numbers) == 0 && len(e.ports()) > 0:
		return 0, fmt.Errorf("say which port: %s, since it declares none of %s%s", withPort(q.To), q.Protocol, e.hasPorts())
	case q.Port == "":
		return 0, fmt.Errorf("say which port: %s%s", withPort(q.To), e.hasPorts())
	case len(numbers) > 1:
		return 0, fmt.Errorf("%s has several %s ports of the name %s: say a number", e.label(), q.Protocol, q.Port)
	}
	return 0, fmt.Errorf("%s has no %s port of the name %s%s", e.label(), q.Protocol, q.Port, e.hasPorts())
}

// withPort says how to write a port behind a destination. What looks like an IPv6 address may end in one already.
func withPort(to string) string {
	if a, err := netip.ParseAddr(to); err != nil || a.Is4() {
		return to + ":PORT"
	}
	at := strings.LastIndexByte(to, ':')
	_, err := netip.ParseAddr(to[:at])
	if n, bad := strconv.ParseUint(to[at+1:], 10, 16); err == nil && bad == nil && n > 0 {
		return fmt.Sprintf("[%s]:%d if that is one, else [%s]:PORT", to[:at], n, to)
	}
	return "[" + to + "]:PORT"
}

func (e end) ports() (list []port) {
	switch {
	case e.service != nil:
		for _, p := range e.service.Ports {
			list = append(list, port{p.Name, p.Protocol, p.Port})
		}
	case e.pod != nil:
		return e.pod.ports
	}
	return list
}

func (e end) hasPorts() string {
	var texts []string
	for _, p := range e.ports() {
		text := fmt.Sprintf("%d/%s", p.number, p.protocol)
		if p.name != "" {
			text = p.name + " " + text
		}
		texts = append(texts, text)
	}
	if len(texts) == 0 {
		return ""
	}
	return " (it has " + strings.Join(texts, ", ") + ")"
}
