package lab

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// object is a Kubernetes object as its manifest spells it: only the fields that say something.
type object map[string]any

func nodeManifest(n nodeRecord) object {
	var addresses []object
	for _, p := range n.Addresses {
		addresses = append(addresses, object{"type": "InternalIP", "address": p.Addr().String()})
	}
	addresses = append(addresses, object{"type": "Hostname", "address": n.Name})
	return object{
		"apiVersion": "v1",
		"kind":       "Node",
		"metadata":   object{"name": n.Name, "labels": object{"kubernetes.io/hostname": n.Name}},
		"spec":       object{"podCIDR": n.PodCIDRs[0], "podCIDRs": n.PodCIDRs},
		"status":     object{"addresses": addresses},
	}
}

func podManifest(p podRecord, hostIP netip.Addr) object {
	status := object{"phase": "Pending", "hostIP": hostIP}
	if len(p.Addresses) > 0 {
		var ips []object
		for _, a := range p.Addresses {
			ips = append(ips, object{"ip": a.String()})
		}
		status = object{"phase": "Running", "hostIP": hostIP, "podIP": p.Addresses[0], "podIPs": ips}
	}
	return object{
		"apiVersion": "v1",
		"kind":       "Pod",
		"metadata":   object{"name": p.Name, "namespace": podNamespace, "uid": p.UID, "labels": object{"app": p.Name}},
		"spec":       object{"nodeName": p.Node, "containers": []object{{"name": "pause", "image": "none"}}},
		"status":     status,
	}
}

func (f folder) nodeManifest(name string) string {
	return filepath.Join(f.manifests(), "node-"+name+".yaml")
}

func (f folder) podManifest(name string) string {
	return filepath.Join(f.manifests(), "pod-"+name+".yaml")
}

// writeManifest writes an object's manifest as a whole: the agents read the folder while it changes.
func writeManifest(path string, o object) error {
	b, err := yaml.Marshal(o)
	if err != nil {
		return fmt.Errorf("write manifest %s: %w", path, err)
	}
	return writeFile(path, b)
}
