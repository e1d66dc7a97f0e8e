package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// program builds a small program.
func program(t *testing.T, path string) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() { println(\"polder\") }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

// unpack reads a tar archive into headers and contents by name.
func unpack(t *testing.T, archive []byte) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		if headers[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		if contents[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
	}
}

func TestTheArchiveIsAnImageOfThePrograms(t *testing.T) {
	dir := t.TempDir()
	agent, plugin, out := filepath.Join(dir, "polder-agent"), filepath.Join(dir, "polder-cni"), filepath.Join(dir, "dist", "polder.tar")
	program(t, agent)
	program(t, plugin)
	if err := run(out, "localhost/polder:dev", "amd64", []string{agent, plugin}); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	_, files := unpack(t, archive)
	var manifest []manifestEntry
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest: %v, %s", err, files["manifest.json"])
	}
	m := manifest[0]
	if !reflect.DeepEqual(m.RepoTags, []string{"localhost/polder:dev"}) || len(m.Layers) != 1 {
		t.Errorf("manifest: %+v", m)
	}
	var c imageConfig
	if err := json.Unmarshal(files[m.Config], &c); err != nil {
		t.Fatal(err)
	}
	if m.Config != digest(files[m.Config])+".json" || c.OS != "linux" || c.Architecture != "amd64" ||
		!reflect.DeepEqual(c.Config.Entrypoint, []string{"/polder-agent"}) || !reflect.DeepEqual(c.Config.Env, []string{"PATH=/"}) {
		t.Errorf("configuration %s: %+v", m.Config, c)
	}
	layer := files[m.Layers[0]]
	if want := []string{"sha256:" + digest(layer)}; !reflect.DeepEqual(c.RootFS.DiffIDs, want) {
		t.Errorf("layers %v, want %v", c.RootFS.DiffIDs, want)
	}
	headers, contents := unpack(t, layer)
	want, err := os.ReadFile(agent)
	if err != nil {
		t.Fatal(err)
	}
	if h := headers["polder-agent"]; h == nil || h.Mode != 0o755 || h.Uid != 0 || h.Gid != 0 || !bytes.Equal(contents["polder-agent"], want) {
		t.Errorf("agent: %+v", h)
	}
	if h := headers["polder-ipam"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "polder-cni" || len(headers) != 3 {
		t.Errorf("IPAM plugin: %+v, %d files", h, len(headers))
	}
}

func TestTheSameProgramsGiveTheSameBytes(t *testing.T) {
	dir := t.TempDir()
	path, out := filepath.Join(dir, "polder-agent"), filepath.Join(dir, "out.tar")
	program(t, path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var archives [2][]byte
	for i := range archives {
		if err := os.WriteFile(path, data, 0o700); err != nil { // at another time
			t.Fatal(err)
		}
		if err := run(out, "a:b", "amd64", []string{path}); err != nil {
			t.Fatal(err)
		}
		if archives[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("they differ")
	}
}

func TestAProgramThatCouldNotRunIsRefused(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.tar")
	for path, want := range map[string]string{
		"/nowhere": "no such file", "/etc/passwd": "bad magic number", dynamic(t): "linked dynamically",
	} {
		if err := run(out, "a:b", runtime.GOARCH, []string{path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want … %s …", path, err, want)
		}
	}
	if err := run(out, "a:b", runtime.GOARCH, nil); err == nil {
		t.Error("an image of nothing")
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("there is an archive")
	}
}

// dynamic finds a program that needs a loader: every shell does.
func dynamic(t *testing.T) string {
	t.Helper()
	path, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Skip("no shell")
	}
	return path
}
