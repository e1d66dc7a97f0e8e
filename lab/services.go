package lab

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"golang.org/x/sys/unix"
)

// Service is a Service of a lab, as its manifest says it.
type Service struct {
	Namespace, Name string
	Type            string // as Kubernetes spells it
	File            string // of the folder of manifests

	ClusterIPs      []netip.Addr
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	Ports           []ServicePort

	Endpoints, Ready int // how many pods it selects, and how many of these are ready
}

// ServicePort is a port of a Service. Its text is PORT[:TARGET][/PROTOCOL], say 80:8080/udp.
type ServicePort struct {
	Port     uint16
	Target   string // a number or the name of a pod's port; default: Port
	Protocol string // "TCP", "UDP" or "SCTP"; default: TCP
	NodePort uint16 // 0: one is chosen, if the Service has any
}

// ServiceOptions says which Service to create. The zero values are what Kubernetes has as defaults.
type ServiceOptions struct {
	Name     string
	Type     string // "ClusterIP", "NodePort" or "LoadBalancer"
	Ports    []ServicePort
	Selector map[string]string // nil: app=NAME; empty: none, and the slices are somebody else's to write

	ClusterIPs []netip.Addr // default: one of each family

	ExternalTrafficPolicy string // "Cluster" or "Local"
	InternalTrafficPolicy string
	Affinity              int // seconds that a client stays with its backend; 0: it does not
}

// CreateService writes the manifest of a Service, with addresses and node ports that no other Service has. Its
// EndpointSlices follow within a second.
func (c *Cluster) CreateService(o ServiceOptions) (Service, error) {
	s, err := c.createService(o)
	if err != nil {
		return Service{}, fmt.Errorf("create Service %s: %w", o.Name, err)
	}
	return s, nil
}

func (c *Cluster) createService(o ServiceOptions) (Service, error) {
	if err := o.check(); err != nil {
		return Service{}, err
	}
	unlock, err := c.lockServices()
	if err != nil {
		return Service{}, err
	}
	defer unlock()
	there, _, err := c.serviceObjects()
	if err != nil {
		return Service{}, err
	}
	var others []*corev1.Service
	for _, f := range there {
		others = append(others, f.Service)
	}
	s, err := newService(o, others)
	if err != nil {
		return Service{}, err
	}
	text, err := yaml.Marshal(s)
	if err != nil {
		return Service{}, err
	}
	file := serviceFile{s, c.folder.serviceManifest(o.Name)}
	if err := createFile(file.path, text); err != nil {
		return Service{}, err
	}
	return file.summary(nil), nil
}

func (f folder) serviceManifest(name string) string {
	return filepath.Join(f.manifests(), "service-"+name+".yaml")
}

// lockServices holds the lab as who adds a pod does, and waits until nobody else chooses addresses.
func (c *Cluster) lockServices() (unlock func(), err error) {
	shared, err := c.folder.lock(false)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(c.folder.path("services.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		shared()
		return nil, fmt.Errorf("lock services: %w", err)
	}
	return func() { file.Close(); shared() }, nil
}

// DeleteService removes the manifest that CreateService wrote, and thereby the Service; its slices follow.
func (c *Cluster) DeleteService(name string) error {
	unlock, err := c.folder.lock(false)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Remove(c.folder.serviceManifest(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there, _, err := c.serviceObjects()
	if err != nil {
		return err
	}
	for _, f := range there {
		if f.Name == name {
			return fmt.Errorf("Service %s is in %s: take it out of there", name, f.path)
		}
	}
	return fmt.Errorf("no Service %s: see 'polder lab service list'", name)
}

// serviceFile is a Service and the file that it is in.
type serviceFile struct {
	*corev1.Service
	path string
}

// serviceObjects reads all Services, by namespace and name, and what else is in the manifests. What cannot be read is
// left out.
func (c *Cluster) serviceObjects() ([]serviceFile, objects, error) {
	entries, err := os.ReadDir(c.Manifests())
	if err != nil {
		return nil, objects{}, fmt.Errorf("read manifests: %w", err)
	}
	var found []serviceFile
	var all objects
	for _, e := range entries {
		if !isManifest(e.Name()) || strings.HasPrefix(e.Name(), "pod-") {
			continue
		}
		path := filepath.Join(c.Manifests(), e.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it is gone in this moment
		}
		o, err := readObjects(data)
		if err != nil {
			continue // the agents say so
		}
		for _, s := range o.services {
			found = append(found, serviceFile{s, path})
		}
		all.slices = append(all.slices, o.slices...)
	}
	slices.SortFunc(found, func(a, b serviceFile) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return found, all, nil
}

// Services returns the lab's Services, whoever wrote them, by namespace and name.
func (c *Cluster) Services() ([]Service, error) {
	found, all, err := c.serviceObjects()
	if err != nil {
		return nil, err
	}
	var list []Service
	for _, f := range found {
		list = append(list, f.summary(all.slices))
	}
	return list, nil
}
