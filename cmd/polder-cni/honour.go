package main

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/polder-net/polder/internal/api"
)

// honour takes what the configuration asks for and refuses, by key and value, what cannot be done: the specification
// lets a plugin refuse fields that it does not know, and a setting that is ignored is worse than an error.
//
// Called as an IPAM plugin, the configuration is that of another plugin, and only what asks for addresses is ours.
func (conf *config) honour(fields, ipam map[string]json.RawMessage, r role) error {
	if conf.ipam == "" {
		for _, key := range sortedKeys(ipam) {
			if key != "type" {
				return unsupported("ipam."+key, ipam[key], "Polder takes addresses from the pod CIDRs of the Node object")
			}
		}
	}
	if err := conf.honourRuntime(fields["runtimeConfig"], r); err != nil || r == ipamRole {
		return err
	}
	chained := conf.prev != nil
	for _, key := range sortedKeys(fields) {
		if chained && (key == "dns" || key == "ipam" && conf.ipam != "") && !empty(fields[key]) {
			return unsupported(key, fields[key], "behind another plugin Polder changes nothing")
		}
		switch key {
		case "cniVersion", "name", "type", "ipam", "prevResult", "runtimeConfig": // looked at elsewhere
		case "capabilities": // what they bring is in runtimeConfig
		case "args": // by convention, data that a plugin may leave alone
		case "dns":
			if err := decode(key, fields[key], &conf.dns); err != nil {
				return err
			}
		case "ipMasq":
			if err := conf.honourMasquerade(fields[key]); err != nil {
				return err
			}
		default:
			if !strings.HasPrefix(key, "cni.dev/") { // the runtime's own
				return unsupported(key, fields[key], "Polder has no such setting")
			}
		}
	}
	return nil
}

// honourMasquerade: what leaves the cluster from a node's pod CIDRs is masqueraded, always; the agent refuses an
// address from elsewhere. Behind another plugin Polder changes nothing, so there false is what happens.
func (conf *config) honourMasquerade(raw json.RawMessage) error {
	chained := conf.prev != nil
	want := !chained
	if err := decode("ipMasq", raw, &want); err != nil {
		return err
	}
	switch {
	case !want && !chained:
		return unsupported("ipMasq", raw, "Polder masquerades what leaves the cluster; the agent's --never-masquerade names exceptions")
	case want && chained:
		return unsupported("ipMasq", raw, "behind another plugin Polder changes nothing")
	}
	conf.masquerade = want && !null(raw)
	return nil
}

// honourRuntime looks at what the runtime asks for this pod. It gives only what the configuration has declared as a
// capability, so a value there counts on being carried out. A delegated IPAM plugin gets all of it, and answers for
// what is about addresses.
func (conf *config) honourRuntime(raw json.RawMessage, r role) error {
	if null(raw) {
		return nil
	}
	fields, err := object("runtimeConfig", raw)
	if err != nil {
		return err
	}
	for _, key := range sortedKeys(fields) {
		about := key == "ips" || key == "ipRanges"
		if key == "bandwidth" && r != ipamRole { // the bandwidth plugin's to carry out; its queues must see the packets
			conf.shaped = !empty(fields[key])
			continue
		}
		if key == "portMappings" && r != ipamRole {
			if err := conf.honourPorts(fields[key]); err != nil {
				return err
			}
			continue
		}
		if empty(fields[key]) || about && conf.ipam != "" || !about && r == ipamRole {
			continue
		}
		return unsupported("runtimeConfig."+key, fields[key], "take the capability from the configuration, or chain a plugin that has it")
	}
	return nil
}

// checkRuntime takes of what the runtime asked for what CHECK is to look for.
func (conf *config) checkRuntime(raw json.RawMessage, r role) error {
	if null(raw) || r == ipamRole {
		return nil
	}
	fields, err := object("runtimeConfig", raw)
	if err == nil {
		conf.ports, err = parsePorts(fields["portMappings"])
	}
	return err
}

// honourPorts: ports of the node lead to links of ours alone. Whether this node leads them there, the agent knows.
func (conf *config) honourPorts(raw json.RawMessage) (err error) {
	if conf.ports, err = parsePorts(raw); err != nil || len(conf.ports) == 0 || conf.prev == nil {
		return err
	}
	return unsupported(portMappings, raw, "behind another plugin Polder changes nothing: chain portmap")
}

// empty tells whether a value asks for nothing.
func empty(raw json.RawMessage) bool {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return false
	}
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

func unsupported(key string, value json.RawMessage, why string) error {
	var text bytes.Buffer
	if err := json.Compact(&text, value); err != nil {
		text.Reset()
		text.Write(value)
	}
	shown := []rune(text.String())
	if len(shown) > 200 {
		shown = append(shown[:200], '…')
	}
	return &api.Error{Code: api.CodeUnsupported, Msg: "unsupported field " + quote(key) + ": " + string(shown), Details: why}
}
