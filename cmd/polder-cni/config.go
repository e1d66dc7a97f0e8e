package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/polder-net/polder/internal/api"
)

// config is a request configuration as far as a verb needs it.
type config struct {
	raw        []byte // whole, for delegates
	version    string // empty until it is known to be one that we speak
	name       string
	ipam       string // the plugin that gives addresses; empty: Polder does
	dns        types.DNS
	masquerade bool
	shaped     bool // a later plugin limits the pod's bandwidth
	ports      []api.PortMapping
	prev       json.RawMessage // the earlier result; nil: there is none
	valid      []api.Attachment
}

// parseConfig reads a configuration for a verb. On an error the version is set if it could be read.
//
// What a configuration asks for and Polder does not do is an error for ADD, and so for STATUS; the other verbs look
// only at what they need, so that what was added can be removed under any configuration.
func parseConfig(raw []byte, verbName string, r role) (config, error) {
	conf := config{raw: raw}
	fields, err := object("configuration", raw)
	if err != nil {
		return conf, err
	}
	if conf.version, err = parseVersion(fields["cniVersion"], verbName); err != nil {
		return conf, err
	}
	if err := decode("name", fields["name"], &conf.name); err != nil {
		return conf, err
	}
	if err := api.ValidateNetwork(conf.name); err != nil {
		return conf, fail(api.CodeInvalidConfig, "name: %v", err)
	}
	ipam, err := conf.parseIPAM(fields["ipam"], r)
	if err != nil {
		return conf, err
	}
	if prev := fields["prevResult"]; !null(prev) {
		conf.prev = prev
	}
	switch verbName {
	case "ADD":
		return conf, conf.honour(fields, ipam, r)
	case "STATUS":
		if err := conf.honour(fields, ipam, r); err != nil {
			return conf, &api.Error{Code: api.CodeNotAvailable, Msg: "the configuration asks for what Polder does not do", Details: err.Error()}
		}
	case "CHECK":
		if conf.prev == nil {
			return conf, fail(api.CodeInvalidConfig, "prevResult is missing")
		}
		return conf, conf.checkRuntime(fields["runtimeConfig"], r)
	case "GC":
		return conf, conf.parseValid(fields)
	}
	return conf, nil
}

func parseVersion(raw json.RawMessage, verbName string) (string, error) {
	v := "0.1.0" // what a configuration without a version means
	if err := decode("cniVersion", raw, &v); err != nil {
		return "", err
	}
	if !slices.Contains(supported(), v) {
		return "", &api.Error{
			Code: api.CodeIncompatible, Msg: "cniVersion " + quote(v) + " is not supported",
			Details: "supported are " + strings.Join(supported(), ", "),
		}
	}
	since := verbs()[verbName].since
	if ok, err := version.GreaterThanOrEqualTo(v, since); err != nil || !ok {
		return v, fail(api.CodeIncompatible, "cniVersion %s has no %s, which came with %s", v, verbName, since)
	}
	return v, nil
}

// parseIPAM finds out who gives addresses, and returns the fields of `ipam`. In the IPAM role its type is the name
// that the caller found us by.
func (conf *config) parseIPAM(raw json.RawMessage, r role) (map[string]json.RawMessage, error) {
	if null(raw) {
		return nil, nil
	}
	fields, err := object("ipam", raw)
	if err != nil || r == ipamRole {
		return fields, err
	}
	if err := decode("ipam.type", fields["type"], &conf.ipam); err != nil {
		return nil, err
	}
	switch {
	case conf.ipam == ipamName:
		conf.ipam = ""
	case conf.ipam == "" && len(fields) > 0:
		return nil, fail(api.CodeInvalidConfig, "ipam.type is missing")
	case strings.ContainsAny(conf.ipam, "/\\\x00") || conf.ipam == "." || conf.ipam == "..":
		return nil, fail(api.CodeInvalidConfig, "ipam.type %s is not the name of a file", quote(conf.ipam))
	}
	return fields, nil
}

// parseValid reads the list for GC: from the key of the specification and the older one that libcni writes as well
// (containernetworking/cni#1101). An attachment is valid when either says so. A runtime whose list is empty may write
// null (libcni does); a configuration with neither key says nothing, so nothing is removed.
func (conf *config) parseValid(fields map[string]json.RawMessage) error {
	present := false
	conf.valid = []api.Attachment{}
	for _, key := range []string{"cni.dev/valid-attachments", "cni.dev/attachments"} {
		raw, ok := fields[key]
		if !ok {
			continue
		}
		present = true
		var list []*types.GCAttachment
		if err := decode(key, raw, &list); err != nil {
			return err
		}
		for _, entry := range list {
			if entry == nil {
				return fail(api.CodeInvalidConfig, "%s: an entry is null", key)
			}
			a := api.Attachment{Network: conf.name, ContainerID: entry.ContainerID, Ifname: entry.IfName}
			if err := a.Validate(); err != nil {
				return fail(api.CodeInvalidConfig, "%s: %v", key, err)
			}
			if !slices.Contains(conf.valid, a) {
				conf.valid = append(conf.valid, a)
			}
		}
	}
	if !present {
		return fail(api.CodeInvalidConfig, "cni.dev/valid-attachments is missing: nothing is removed")
	}
	return nil
}

// object reads a JSON object. Keys count exactly as they are written.
func object(what string, raw []byte) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := decode(what, raw, &fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, fail(api.CodeDecode, "decode %s: it is empty", what)
	}
	return fields, nil
}

// decode reads a value; one that is missing or null leaves into as it is.
func decode(what string, raw json.RawMessage, into any) error {
	if null(raw) {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fail(api.CodeDecode, "decode %s: %v", what, err)
	}
	return nil
}

func null(raw json.RawMessage) bool {
	text := bytes.TrimSpace(raw)
	return len(text) == 0 || string(text) == "null"
}

// quote shows a text of the configuration's in an error: all of it if it is short.
func quote(text string) string {
	const enough = 200
	if len(text) > enough {
		text = text[:enough] + "…"
	}
	shown, _ := json.Marshal(text)
	return string(shown)
}

func sortedKeys(m map[string]json.RawMessage) []string { return slices.Sorted(maps.Keys(m)) }
