package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"strings"

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
	labels := object{"kubernetes.io/hostname": n.Name}
	if n.Zone != "" {
		labels["topology.kubernetes.io/zone"] = n.Zone
	}
	return object{
		"apiVersion": "v1",
		"kind":       "Node",
		"metadata":   object{"name": n.Name, "labels": labels},
		"spec":       object{"podCIDR": n.PodCIDRs[0], "podCIDRs": n.PodCIDRs},
		"status":     object{"addresses": addresses},
	}
}

// podManifest says a pod as Kubernetes would: it is ready when it has its addresses, unless it was told not to be.
func podManifest(p podRecord, hostIP netip.Addr) object {
	status := object{"phase": "Pending", "hostIP": hostIP}
	if len(p.Addresses) > 0 {
		var ips []object
		for _, a := range p.Addresses {
			ips = append(ips, object{"ip": a.String()})
		}
		ready := "True"
		if p.NotReady {
			ready = "False"
		}
		status = object{
			"phase": "Running", "hostIP": hostIP, "podIP": p.Addresses[0], "podIPs": ips,
			"conditions": []object{{"type": "Ready", "status": ready}},
		}
	}
	metadata := object{"name": p.Name, "namespace": p.namespace(), "uid": p.UID, "labels": p.Labels}
	if !p.Terminating.IsZero() {
		metadata["deletionTimestamp"] = p.Terminating
		metadata["deletionGracePeriodSeconds"] = int(gracePeriod.Seconds())
	}
	container := object{"name": "pause", "image": "none"}
	var ports []object
	for _, port := range p.Serve {
		for _, protocol := range []string{"TCP", "UDP"} {
			name := fmt.Sprintf("serve-%d-%s", port, strings.ToLower(protocol))
			ports = append(ports, object{"name": name, "containerPort": port, "protocol": protocol})
		}
	}
	if len(ports) > 0 {
		container["ports"] = ports
	}
	return object{
		"apiVersion": "v1",
		"kind":       "Pod",
		"metadata":   metadata,
		"spec":       object{"nodeName": p.Node, "containers": []object{container}},
		"status":     status,
	}
}

// namespaceManifest says a namespace as Kubernetes would: it puts the name among the labels.
func namespaceManifest(name string, labels map[string]string) object {
	all := map[string]string{"kubernetes.io/metadata.name": name}
	maps.Copy(all, labels)
	return object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": name, "labels": all}}
}

// serviceCIDRManifest says what the lab takes cluster IPs from.
func serviceCIDRManifest() object {
	return object{
		"apiVersion": "networking.k8s.io/v1",
		"kind":       "ServiceCIDR",
		"metadata":   object{"name": "kubernetes"},
		"spec":       object{"cidrs": serviceCIDRs()},
	}
}

func (f folder) nodeManifest(name string) string {
	return filepath.Join(f.manifests(), "node-"+name+".yaml")
}

func (f folder) namespaceManifest(name string) string {
	return filepath.Join(f.manifests(), "namespace-"+name+".yaml")
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
