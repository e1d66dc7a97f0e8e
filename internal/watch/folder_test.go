package watch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
)

// run runs a source until the test ends.
func run(t *testing.T, r func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func logTo(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// folder makes a folder with one node in it and follows it.
func folder(t *testing.T, change func(*FolderSource)) (*FolderSource, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "manifests")
	write(t, filepath.Join(dir, "a.yaml"), node("a", "10.0.0.1", "10.1.0.0/24"))
	f, err := Folder(dir, logTo(t))
	if err != nil {
		t.Fatal(err)
	}
	f.rescan = time.Hour // only notices count, unless a test says otherwise
	if change != nil {
		change(f)
	}
	if f.Latest() != nil {
		t.Error("says something before it has read anything")
	}
	run(t, f.Run)
	awaitText(t, f, nodeA)
	return f, dir
}

const (
	nodeA = "node a [10.0.0.1] [10.1.0.0/24]\n"
	nodeB = "node b [10.0.0.2] [10.1.1.0/24]\n"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreFollowed(t *testing.T) {
	f, dir := folder(t, nil)
	b := filepath.Join(dir, "b.yml")
	write(t, b, node("b", "10.0.0.2", "10.1.1.0/24"))
	awaitText(t, f, nodeA+nodeB)
	write(t, b, node("b", "10.0.0.3", "10.1.1.0/24"))
	awaitText(t, f, nodeA+"node b [10.0.0.3] [10.1.1.0/24]\n")
	must(t, os.Remove(b))
	awaitText(t, f, nodeA)
}

func TestASaveByRenameIsFollowed(t *testing.T) {
	f, dir := folder(t, nil)
	write(t, filepath.Join(dir, ".a.yaml.tmp"), node("b", "10.0.0.2", "10.1.1.0/24"))
	must(t, os.Rename(filepath.Join(dir, ".a.yaml.tmp"), filepath.Join(dir, "a.yaml")))
	awaitText(t, f, nodeB)
}

// Vim moves the old file away and writes a new one: for a moment there is none.
func TestASaveInStepsNeverLosesANode(t *testing.T) {
	f, dir := folder(t, func(f *FolderSource) { f.settle = time.Second })
	must(t, os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "a.yaml~")))
	write(t, filepath.Join(dir, "a.yaml"), "# ")
	write(t, filepath.Join(dir, "a.yaml"), node("a", "10.0.0.1", "10.1.0.0/24"))
	must(t, os.Remove(filepath.Join(dir, "a.yaml~")))
	write(t, filepath.Join(dir, "b.yaml"), node("b", "10.0.0.2", "10.1.1.0/24"))
	await(t, f, "the second node", func(s *cluster.Snapshot) bool {
		if !strings.Contains(text(s), nodeA) {
			t.Errorf("the node was lost:\n%s", text(s))
		}
		return strings.Contains(text(s), nodeB)
	})
}

// A ConfigMap's files are links to ..data/NAME, and ..data is a link to a folder that is replaced as a whole.
func TestAConfigMapIsFollowed(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "..1", "a.yaml"), node("a", "10.0.0.1", "10.1.0.0/24"))
	must(t, os.Symlink("..1", filepath.Join(dir, "..data")))
	must(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	f, err := Folder(dir, logTo(t))
	must(t, err)
	f.rescan = time.Hour
	run(t, f.Run)
	awaitText(t, f, nodeA)

	write(t, filepath.Join(dir, "..2", "a.yaml"), node("b", "10.0.0.2", "10.1.1.0/24"))
	must(t, os.Symlink("..2", filepath.Join(dir, "..data_tmp")))
	must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	must(t, os.RemoveAll(filepath.Join(dir, "..1")))
	awaitText(t, f, nodeB)
}

func TestALinkToElsewhereIsFollowedWithoutNotices(t *testing.T) {
	f, dir := folder(t, func(f *FolderSource) { f.rescan = 20 * time.Millisecond })
	elsewhere := filepath.Join(t.TempDir(), "b")
	write(t, elsewhere, node("b", "10.0.0.2", "10.1.1.0/24"))
	must(t, os.Symlink(elsewhere, filepath.Join(dir, "b.yaml")))
	awaitText(t, f, nodeA+nodeB)
	write(t, elsewhere, node("b", "10.0.0.3", "10.1.1.0/24"))
	awaitText(t, f, nodeA+"node b [10.0.0.3] [10.1.1.0/24]\n")
}

func TestAFolderThatIsGoneCountsAsItLastDid(t *testing.T) {
	f, dir := folder(t, func(f *FolderSource) { f.rescan = 20 * time.Millisecond })
	must(t, os.Rename(dir, dir+".old"))
	s := await(t, f, "the problem", func(s *cluster.Snapshot) bool { return len(s.Problems) == 1 })
	if len(s.Nodes) != 1 || s.Problems[0].Object != dir || !strings.Contains(s.Problems[0].Message, "no such file") {
		t.Errorf("got:\n%s", text(s))
	}
	// Another folder in its place is followed, by notices, too.
	write(t, filepath.Join(dir, "b.yaml"), node("b", "10.0.0.2", "10.1.1.0/24"))
	awaitText(t, f, nodeB)
}

func TestWhatIsNoManifestFileDoesNoHarm(t *testing.T) {
	f, dir := folder(t, nil)
	write(t, filepath.Join(dir, "README.md"), "no: manifest")
	write(t, filepath.Join(dir, ".hidden.yaml"), "no: manifest")
	must(t, os.Mkdir(filepath.Join(dir, "sub.yaml"), 0o755))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o644)) // reading it would never end
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling.yaml")))
	large := filepath.Join(dir, "large.yaml")
	write(t, large, "# ")
	must(t, os.Truncate(large, maxFile+1))
	awaitText(t, f, nodeA+"problem dangling.yaml: read manifest: stat "+dir+"/dangling.yaml: no such file or directory\n"+
		"problem large.yaml: read manifest: larger than 16 MiB\n"+
		"problem pipe.yaml: read manifest: not a file\nproblem sub.yaml: read manifest: not a file\n")
}

func TestNoFolderIsAClearError(t *testing.T) {
	_, err := Folder("/nowhere/at/all", logTo(t))
	want := "read manifests: open /nowhere/at/all: no such file or directory (give --manifests a folder that is there)"
	if err == nil || err.Error() != want {
		t.Errorf("got: %v", err)
	}
}

func TestReadingTheSameAgainIsNoChange(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), "{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDR: x}}")
	f, err := Folder(dir, logTo(t))
	must(t, err)
	f.read()
	<-f.Changed()
	first := f.Latest()
	write(t, filepath.Join(dir, "a.yaml"), "{apiVersion: v1, kind: Node, metadata: {name: a, labels: {}}, spec: {podCIDR: x}}")
	f.read()
	select {
	case <-f.Changed():
		t.Error("notice of a change that is none")
	default:
	}
	if f.Latest() != first {
		t.Error("another Snapshot that says the same")
	}
}
