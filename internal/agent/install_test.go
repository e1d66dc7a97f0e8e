package agent

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/polder-net/polder/internal/desired"
)

func TestTheConfigurationIsOneThatRuntimesRead(t *testing.T) {
	for _, test := range []struct {
		chained []string
		ports   bool
		own     map[string]bool
	}{
		{nil, false, nil},
		{[]string{"portmap"}, false, nil},
		{[]string{"portmap", "bandwidth"}, false, map[string]bool{"bandwidth": true}},
		{nil, true, map[string]bool{"portMappings": true}},
		{[]string{"bandwidth"}, true, map[string]bool{"portMappings": true, "bandwidth": true}},
	} {
		body, err := conflist(test.chained, test.ports)
		if err != nil {
			t.Fatal(err)
		}
		list, err := libcni.NetworkConfFromBytes(body)
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if list.Name != networkName || list.CNIVersion != "1.1.0" || len(list.Plugins) != 1+len(test.chained) ||
			!maps.Equal(list.Plugins[0].Network.Capabilities, test.own) {
			t.Errorf("%s read as %+v", body, list)
		}
	}
}

func TestPortmapIsNeitherChainedNorMissedWhereHostPortsAreOurs(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"portmap", "bandwidth"} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for services, want := range map[bool][]string{true: {"bandwidth"}, false: {"portmap", "bandwidth"}} {
		a := Agent{cfg: Config{CNIBin: bin, Options: desired.Options{Services: services}}}
		if got := a.chained(); !slices.Equal(got, want) {
			t.Errorf("services %v: %v are chained", services, got)
		}
		a.cfg.CNIBin = t.TempDir()
		if got := a.missingPlugins(); len(got) != len(want) {
			t.Errorf("services %v: %v", services, got)
		}
	}
}

func TestAUsersOwnConfigurationWins(t *testing.T) {
	dir := t.TempDir()
	write := func(name, body string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("10-other.conflist", `{"plugins":[{"type":"ptp","ipam":{"type":"host-local"}}]}`)
	write(conflistName, `{"plugins":[{"type":"polder-cni"}]}`)
	if own, err := ownConfiguration(dir); own != "" || err != nil {
		t.Fatalf("%q, %v", own, err)
	}
	write("20-mine.conflist", `{"plugins":[{"type":"ptp","ipam":{"type":"polder-ipam"}}]}`)
	if own, err := ownConfiguration(dir); own != "20-mine.conflist" || err != nil {
		t.Fatalf("%q, %v", own, err)
	}
}

func TestAFileIsReplacedWholeAndOnlyWhenItDiffers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, body := range []string{"one", "two"} {
		if err := replaceFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(path, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) {
		t.Fatalf("an equal file was written again: %v", err)
	}
	if err := replaceFile(filepath.Join(t.TempDir(), "no", "folder"), nil, 0o644); err == nil || strings.Contains(err.Error(), "failed") {
		t.Fatalf("%v", err)
	}
}
