package parts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVersionsAreThoseOfTheScratchModules(t *testing.T) {
	cache := Cache{Source: "..", Dir: "/cache"}
	path, err := cache.Path("kubelet")
	if err != nil || !strings.HasPrefix(path, "/cache/bin/kubernetes-v1.") {
		t.Errorf("%s, %v", path, err)
	}
	if _, err := versionIn([]byte("module a\n\nrequire (\n\tb/c v1.2.3 // indirect\n)\n"), "b"); err == nil {
		t.Error("a longer path is taken for the module")
	}
	if version, err := versionIn([]byte("module a\n\nrequire b v1.2.3\n"), "b"); err != nil || version != "v1.2.3" {
		t.Errorf("%s, %v", version, err)
	}
}

func TestEveryPartIsNamedInItsModule(t *testing.T) {
	names := map[string]bool{}
	for _, part := range All() {
		if names[part.Name] {
			t.Errorf("%s is in the list twice", part.Name)
		}
		names[part.Name] = true
		if part.Module == "" {
			continue
		}
		tools, err := os.ReadFile(filepath.Join("../modules", part.Module, "tools.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(tools), `"`+part.Package+`"`) {
			t.Errorf("modules/%s/tools.go does not import %s", part.Module, part.Package)
		}
	}
}

func TestKubernetesLearnsItsVersionFromTheLinker(t *testing.T) {
	line := strings.Join(goArguments(Part{Module: "kubernetes", Package: "p", Test: true}, "v1.37.2", "out"), " ")
	for _, want := range []string{"go test -c ", "version.gitVersion=v1.37.2", "version.gitMinor=37", "-o out p"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q lacks %q", line, want)
		}
	}
}
