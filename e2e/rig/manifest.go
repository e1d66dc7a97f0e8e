package rig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"sort"

	"sigs.k8s.io/yaml"
)

// withEnvironment reads a manifest of several documents, sets variables and arguments in every container of one
// DaemonSet, and returns all documents as one JSON list.
func withEnvironment(manifest []byte, daemonSet string, values map[string]string, args ...string) ([]byte, error) {
	items, err := documents(manifest)
	if err != nil {
		return nil, err
	}
	found := false
	for _, item := range items {
		metadata, _ := item["metadata"].(map[string]any)
		if item["kind"] != "DaemonSet" || metadata["name"] != daemonSet {
			continue
		}
		found = true
		for _, list := range []string{"initContainers", "containers"} {
			setInContainers(item, list, values, args)
		}
	}
	if !found {
		return nil, fmt.Errorf("edit manifest: it has no DaemonSet %s", daemonSet)
	}
	return json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
}

// documents reads the parts of a YAML file between lines of three dashes.
func documents(manifest []byte) ([]map[string]any, error) {
	var items []map[string]any
	separator := regexp.MustCompile(`(?m)^---[ \t]*(#.*)?$`)
	for _, part := range separator.Split(string(manifest), -1) {
		var item map[string]any
		if err := yaml.Unmarshal([]byte(part), &item); err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		if len(item) > 0 {
			items = append(items, item)
		}
	}
	return items, nil
}

// setInContainers sets the variables and arguments in one list of a pod template's containers; other variables stay as
// they are.
func setInContainers(daemonSet map[string]any, list string, values map[string]string, args []string) {
	spec, _ := daemonSet["spec"].(map[string]any)
	template, _ := spec["template"].(map[string]any)
	pod, _ := template["spec"].(map[string]any)
	containers, _ := pod[list].([]any)
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, entry := range containers {
		container, ok := entry.(map[string]any)
		if !ok {
			continue
		}
		old, _ := container["env"].([]any)
		var kept []any
		for _, variable := range old {
			fields, _ := variable.(map[string]any)
			name, _ := fields["name"].(string)
			if _, ours := values[name]; !ours {
				kept = append(kept, variable)
			}
		}
		for _, name := range names {
			kept = append(kept, map[string]any{"name": name, "value": values[name]})
		}
		container["env"] = kept
		if len(args) > 0 {
			container["args"] = args
		}
	}
}

// fill replaces the upper-case names in a template.
func fill(template []byte, values map[string]string) []byte {
	for name, value := range values {
		template = bytes.ReplaceAll(template, []byte(name), []byte(value))
	}
	return template
}
