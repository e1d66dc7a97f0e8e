package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestLibrariesAreReadFromLdd(t *testing.T) {
	const output = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibtinfo.so.6 => /lib/x86_64-linux-gnu/libtinfo.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"
	want := []string{"/lib/x86_64-linux-gnu/libtinfo.so.6", "/lib64/ld-linux-x86-64.so.2"}
	if got := libraries(output); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := libraries("\tnot a dynamic executable\n"); len(got) != 0 {
		t.Errorf("a static program has %v", got)
	}
}

func TestALayerHasItsFoldersFirstAndIsTheSameTwice(t *testing.T) {
	layer := NewRootfs()
	layer.Text("/etc/passwd", "root")
	layer.Link("/bin/sh", "bash")
	layer.Dir("/tmp", 0o1777)
	var one, two bytes.Buffer
	if err := errors.Join(layer.Write(&one), layer.Write(&two)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("the bytes differ")
	}
	if got, want := names(t, &one), []string{"bin/", "etc/", "tmp/", "bin/sh", "etc/passwd"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestImagesWithTheSameLayerShareIt(t *testing.T) {
	layer := NewRootfs()
	layer.Text("/a", "a")
	file := filepath.Join(t.TempDir(), "images.tar")
	images := []Image{{Name: "x:1", Layers: []string{"l"}}, {Name: "x:2", Layers: []string{"l"}, Args: []string{"b"}}}
	if err := WriteArchive(file, map[string]*Rootfs{"l": layer}, images); err != nil {
		t.Fatal(err)
	}
	archive, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if got := names(t, archive); len(got) != 4 { // a layer, two configurations, the manifest
		t.Errorf("%v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*")); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func names(t *testing.T, r io.Reader) []string {
	t.Helper()
	var all []string
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, header.Name)
	}
}
