// Package image writes container images without a container engine: a root file system collected from this machine's
// programs, and the docker-archive that containerd imports. It runs no container.
package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Image is one entry of an archive: a name, the layers it consists of, and what it runs.
type Image struct {
	Name       string
	Layers     []string // names for the layers, the lowest first; images with the same one share it
	Entrypoint []string
	Args       []string
}

// WriteArchive writes the images as one docker-archive. The file is complete or absent.
func WriteArchive(file string, layers map[string]*Rootfs, images []Image) error {
	scratch, err := os.MkdirTemp(filepath.Dir(file), "archive-")
	if err != nil {
		return fmt.Errorf("write image archive: %w", err)
	}
	defer os.RemoveAll(scratch)
	unfinished := filepath.Join(scratch, "archive.tar")
	out, err := os.Create(unfinished)
	if err != nil {
		return fmt.Errorf("write image archive: %w", err)
	}
	defer out.Close()
	if err := writeArchive(out, scratch, layers, images); err != nil {
		return fmt.Errorf("write image archive: %w", err)
	}
	return os.Rename(unfinished, file)
}

func writeArchive(out io.Writer, scratch string, layers map[string]*Rootfs, images []Image) error {
	archive := tar.NewWriter(out)
	digests := map[string]string{}
	for _, image := range images {
		for _, layer := range image.Layers {
			if digests[layer] != "" {
				continue
			}
			digest, err := addLayer(archive, filepath.Join(scratch, "layer.tar"), layers[layer])
			if err != nil {
				return fmt.Errorf("layer %s: %w", layer, err)
			}
			digests[layer] = digest
		}
	}
	var manifest []manifestEntry
	for _, image := range images {
		var files, diffs []string
		for _, layer := range image.Layers {
			files, diffs = append(files, digests[layer]+".tar"), append(diffs, "sha256:"+digests[layer])
		}
		config, err := json.Marshal(configOf(image, diffs))
		if err != nil {
			return err
		}
		name := digestOf(config) + ".json"
		if err := addBytes(archive, name, config); err != nil {
			return err
		}
		manifest = append(manifest, manifestEntry{Config: name, RepoTags: []string{image.Name}, Layers: files})
	}
	content, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := addBytes(archive, "manifest.json", content); err != nil {
		return err
	}
	return archive.Close()
}

// addLayer writes the layer to a file first, as its name in the archive is its digest.
func addLayer(archive *tar.Writer, file string, layer *Rootfs) (string, error) {
	out, err := os.Create(file)
	if err != nil {
		return "", err
	}
	defer out.Close()
	hash := sha256.New()
	if err := layer.Write(io.MultiWriter(out, hash)); err != nil {
		return "", err
	}
	size, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return "", err
	}
	digest := hex.EncodeToString(hash.Sum(nil))
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: digest + ".tar", Mode: 0o644, Size: size}); err != nil {
		return "", err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	_, err = io.Copy(archive, out)
	return digest, err
}

func addBytes(archive *tar.Writer, name string, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

type imageConfig struct {
	Architecture string        `json:"architecture"`
	OS           string        `json:"os"`
	Config       runtimeConfig `json:"config"`
	Rootfs       rootfsConfig  `json:"rootfs"`
}

type runtimeConfig struct {
	Env        []string `json:"Env"`
	Entrypoint []string `json:"Entrypoint"`
	Cmd        []string `json:"Cmd"`
	WorkingDir string   `json:"WorkingDir"`
}

type rootfsConfig struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

func configOf(image Image, diffs []string) imageConfig {
	return imageConfig{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: runtimeConfig{
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Entrypoint: image.Entrypoint,
			Cmd:        image.Args,
			WorkingDir: "/",
		},
		Rootfs: rootfsConfig{Type: "layers", DiffIDs: diffs},
	}
}
