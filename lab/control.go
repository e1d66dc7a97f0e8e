package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// settle is how recently a file may have changed for its times to tell nothing: the next change may show the same.
const settle = 100 * time.Millisecond

// slicesHeader marks the files that are the controller's to write and to remove.
const slicesHeader = "# The lab writes this file, from the Service and the Pods. Changes are lost.\n"

// controller does what Kubernetes' controller of EndpointSlices does: it follows the Services, Pods and Nodes in the
// folder of manifests, whoever wrote them, and writes a file of slices for each Service. It alone writes these.
type controller struct {
	folder string
	files  map[string]manifestFile
}

// manifestFile is a file as it was last read. One that cannot be read stays what it was.
type manifestFile struct {
	info    os.FileInfo // nil: to be read again
	objects objects
	slices  []byte // the contents of a file that is the controller's
}

// HoldFabric is the life of the fabric's process, which is the cluster's controller, too, until ctx is done.
func HoldFabric(ctx context.Context, state string) error {
	c := controller{folder(state).manifests(), map[string]manifestFile{}}
	changes, err := watchFolder(ctx, c.folder)
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: looking at manifests every %s: %v\n", poll, err)
	}
	said := ""
	for ctx.Err() == nil {
		text := ""
		if err := c.sync(); err != nil {
			text = err.Error()
		}
		if text != "" && text != said {
			fmt.Fprintln(os.Stderr, time.Now().Format(time.RFC3339Nano), "lab:", text)
		}
		said = text
		changes.wait(ctx)
	}
	return nil
}

// sync makes the slices what they should be.
func (c *controller) sync() error {
	err := c.refresh()
	want := map[string][]byte{}
	var all objects
	nodes := map[string]*corev1.Node{}
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		o := c.files[name].objects
		all.services, all.pods = append(all.services, o.services...), append(all.pods, o.pods...)
		for _, n := range o.nodes {
			nodes[n.Name] = n
		}
	}
	for _, s := range all.services {
		text, failed := slicesText(s, all.pods, nodes)
		err = errors.Join(err, failed)
		if len(text) > 0 {
			want[slicesFile(s)] = text
		}
	}
	for name, text := range want {
		if !bytes.Equal(c.files[name].slices, text) {
			err = errors.Join(err, writeFile(filepath.Join(c.folder, name), text))
		}
	}
	for name, f := range c.files {
		if f.slices != nil && want[name] == nil {
			err = errors.Join(err, removeFile(filepath.Join(c.folder, name)))
		}
	}
	return err
}

// slicesFile names the file of a Service's slices. There are no dots in a Service's name or namespace.
func slicesFile(s *corev1.Service) string {
	return "endpointslices-" + s.Name + "." + s.Namespace + ".yaml"
}

func slicesText(s *corev1.Service, pods []*corev1.Pod, nodes map[string]*corev1.Node) ([]byte, error) {
	var text []byte
	for i, slice := range endpointSlices(s, pods, nodes) {
		b, err := yaml.Marshal(slice)
		if err != nil {
			return nil, fmt.Errorf("write slices of Service %s/%s: %w", s.Namespace, s.Name, err)
		}
		separator := "---\n"
		if i == 0 {
			separator = slicesHeader
		}
		text = append(append(text, separator...), b...)
	}
	return text, nil
}

// refresh reads the files that changed since they were last read.
func (c *controller) refresh() error {
	entries, err := os.ReadDir(c.folder)
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	var errs []error
	there := map[string]bool{}
	for _, e := range entries {
		if !isManifest(e.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(c.folder, e.Name()))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		there[e.Name()] = true
		if old := c.files[e.Name()].info; old != nil && os.SameFile(old, info) && old.ModTime().Equal(info.ModTime()) && old.Size() == info.Size() {
			continue
		}
		errs = append(errs, c.read(e.Name(), info))
	}
	for name := range c.files {
		if !there[name] {
			delete(c.files, name)
		}
	}
	return errors.Join(errs...)
}

// read reads a file that had that information before.
func (c *controller) read(name string, info os.FileInfo) error {
	if time.Since(info.ModTime()) < settle {
		info = nil
	}
	f := c.files[name]
	f.info = info
	defer func() { c.files[name] = f }()
	data, err := os.ReadFile(filepath.Join(c.folder, name))
	if err == nil && bytes.HasPrefix(data, []byte(slicesHeader)) {
		f.objects, f.slices = objects{}, data
		return nil
	}
	var o objects
	if err == nil {
		o, err = readObjects(data)
	}
	if err != nil {
		return fmt.Errorf("read manifest %s: %w: it counts as it last did", name, err)
	}
	f.objects, f.slices = o, nil
	return nil
}

// isManifest knows the files that agents read, too.
func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}
