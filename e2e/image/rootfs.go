package image

import (
	"archive/tar"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// Rootfs is a root file system in the making: paths in the image, and what lies there.
type Rootfs struct {
	files map[string]string // path → file of this machine
	texts map[string]string // path → content
	modes map[string]int64  // path → mode of a text, where it is not 0644
	links map[string]string // path → target
	dirs  map[string]int64  // path → mode
}

// NewRootfs returns an empty root file system.
func NewRootfs() *Rootfs {
	return &Rootfs{files: map[string]string{}, texts: map[string]string{}, modes: map[string]int64{}, links: map[string]string{}, dirs: map[string]int64{}}
}

// File puts a file of this machine at a path.
func (r *Rootfs) File(at, source string) { r.files[at] = source }

// Text puts a small file at a path.
func (r *Rootfs) Text(at, content string) { r.texts[at] = content }

// Script puts a small program at a path.
func (r *Rootfs) Script(at, content string) { r.texts[at], r.modes[at] = content, 0o755 }

// Link puts a symbolic link at a path, unless a file is there.
func (r *Rootfs) Link(at, target string) {
	if _, taken := r.files[at]; !taken {
		r.links[at] = target
	}
}

// Dir makes an empty folder.
func (r *Rootfs) Dir(at string, mode int64) { r.dirs[at] = mode }

// Program puts one of this machine's programs at a path, and beside it the shared libraries it is linked with.
func (r *Rootfs) Program(at, name string) error {
	found, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("find program: %w", err)
	}
	real, err := filepath.EvalSymlinks(found)
	if err != nil {
		return fmt.Errorf("find program: %w", err)
	}
	r.File(at, real)
	output, _ := exec.Command("ldd", real).Output() // a static program has none, and ldd says so with its exit code
	for _, library := range libraries(string(output)) {
		r.File(library, library)
	}
	return nil
}

// Busybox puts busybox at /bin and a link for every applet whose name is still free.
func (r *Rootfs) Busybox() error {
	if err := r.Program("/bin/busybox", "busybox"); err != nil {
		return err
	}
	output, err := exec.Command("busybox", "--list").Output()
	if err != nil {
		return fmt.Errorf("list applets: %w", err)
	}
	for _, applet := range strings.Fields(string(output)) {
		if !r.has(applet) {
			r.Link("/bin/"+applet, "busybox")
		}
	}
	return nil
}

// has says whether a folder of the usual search path has a program of that name.
func (r *Rootfs) has(name string) bool {
	for _, folder := range []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin"} {
		at := folder + "/" + name
		if r.files[at] != "" || r.links[at] != "" {
			return true
		}
	}
	return false
}

// libraries reads the absolute paths from ldd's output.
func libraries(output string) []string {
	var found []string
	for _, line := range strings.Split(output, "\n") {
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") {
				found = append(found, field)
			}
		}
	}
	return found
}

// Write writes the file system as a tar layer, sorted, with fixed times: the same content gives the same bytes.
func (r *Rootfs) Write(w io.Writer) error {
	archive := tar.NewWriter(w)
	for _, at := range r.folders() {
		mode := r.dirs[at]
		if mode == 0 {
			mode = 0o755
		}
		header := &tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(at, "/") + "/", Mode: mode}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("write layer: %w", err)
		}
	}
	for _, at := range sortedKeys(r.files, r.texts, r.links) {
		if err := r.writeEntry(archive, at); err != nil {
			return fmt.Errorf("write layer: %s: %w", at, err)
		}
	}
	return archive.Close()
}

func (r *Rootfs) writeEntry(archive *tar.Writer, at string) error {
	name := strings.TrimPrefix(at, "/")
	if target, ok := r.links[at]; ok {
		return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
	}
	if text, ok := r.texts[at]; ok {
		mode := cmp.Or(r.modes[at], 0o644)
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(text))}); err != nil {
			return err
		}
		_, err := io.WriteString(archive, text)
		return err
	}
	file, err := os.Open(r.files[at])
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size()}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, file)
	return err
}

// folders lists every folder that is needed, parents first.
func (r *Rootfs) folders() []string {
	all := map[string]string{}
	add := func(at string) {
		for ; at != "/" && at != "."; at = path.Dir(at) {
			all[at] = ""
		}
	}
	for at := range r.dirs {
		add(at)
	}
	for _, at := range sortedKeys(r.files, r.texts, r.links) {
		add(path.Dir(at))
	}
	return sortedKeys(all)
}

func sortedKeys(maps ...map[string]string) []string {
	var keys []string
	for _, m := range maps {
		for key := range m {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	return keys
}
