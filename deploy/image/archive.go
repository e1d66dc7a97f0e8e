package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// entry is a file of a tar archive. link: it is a hard link to that file.
type entry struct {
	name, link string
	mode       int64
	data       []byte
}

// pack writes a tar archive that depends on its entries alone.
func pack(entries []entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: e.mode, Size: int64(len(e.data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeLink, e.link
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return b.Bytes(), nil
}

// makeLayer packs the programs, sorted by name. polder-cni is the IPAM plugin, too, under that one's name.
func makeLayer(programs []string) ([]byte, error) {
	var entries []entry
	for _, path := range programs {
		if err := mustBeStatic(path); err != nil {
			return nil, err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read program: %w", err)
		}
		name := filepath.Base(path)
		entries = append(entries, entry{name: name, mode: 0o755, data: data})
		if name == "polder-cni" {
			entries = append(entries, entry{name: "polder-ipam", mode: 0o755, link: name})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	return pack(entries)
}

// mustBeStatic refuses a program that would need a loader: the image has none.
func mustBeStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read program %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("read program %s: it is linked dynamically: build it with CGO_ENABLED=0", path)
		}
	}
	return nil
}

// imageConfig is the part of a container image's configuration that this image needs.
// See github.com/opencontainers/image-spec, config.md.
type imageConfig struct {
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       struct {
		Entrypoint []string
		Env        []string
		WorkingDir string
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// manifestEntry is an image of a docker-archive's manifest.json.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// makeArchive wraps one layer as a docker-archive. PATH is the root, so that `kubectl exec ds/polder -- polder status`
// finds its program.
func makeArchive(layer []byte, tag, arch, entrypoint string) ([]byte, error) {
	c := imageConfig{Created: time.Unix(0, 0).UTC(), Architecture: arch, OS: "linux"}
	c.Config.Entrypoint, c.Config.Env, c.Config.WorkingDir = []string{entrypoint}, []string{"PATH=/"}, "/"
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{"sha256:" + digest(layer)}
	config, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode image configuration: %w", err)
	}
	configName, layerName := digest(config)+".json", digest(layer)+".tar"
	manifest, err := json.Marshal([]manifestEntry{{configName, []string{tag}, []string{layerName}}})
	if err != nil {
		return nil, fmt.Errorf("encode image manifest: %w", err)
	}
	return pack([]entry{
		{name: layerName, mode: 0o644, data: layer},
		{name: configName, mode: 0o644, data: config},
		{name: "manifest.json", mode: 0o644, data: manifest},
	})
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
