package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/polder-net/polder/internal/cluster"
)

// maxFile bounds a manifest file, in bytes: what is larger was not written by hand, and is no cluster of ours.
const maxFile = 16 << 20

// FolderSource is a folder of Kubernetes manifests as a source of cluster state. It reads *.yaml, *.yml and *.json
// in the folder itself, neither hidden files nor subfolders.
//
// There is no API server that fills in what manifests leave out, so their readers do: namespaces ("default"), protocols
// of ports (TCP), policyTypes, and the label kubernetes.io/metadata.name of namespaces. A namespace that a pod is in need
// not be there: it then has that label alone.
type FolderSource struct {
	dir string
	log *slog.Logger

	settle time.Duration // of quiet before files are read: editors save in several steps
	rescan time.Duration // between readings that nothing asked for: links to elsewhere give no notice

	changed signal
	latest  atomic.Pointer[cluster.Snapshot]

	// Run's own.
	content *content
	watched fs.FileInfo // the folder that the kernel's notices are of; nil: none
}

// Folder returns a folder of manifests as a source of cluster state.
func Folder(dir string, log *slog.Logger) (*FolderSource, error) {
	if _, err := os.ReadDir(dir); err != nil {
		return nil, fmt.Errorf("read manifests: %w (give --manifests a folder that is there)", err)
	}
	return &FolderSource{
		dir: dir, log: log, settle: 50 * time.Millisecond, rescan: 5 * time.Second,
		changed: newSignal(), content: newContent(),
	}, nil
}

// Changed holds a notice when Latest says something new. Changes that nobody has looked at are one notice.
func (f *FolderSource) Changed() <-chan struct{} { return f.changed }

// Latest returns what the manifests say, and nil until they have been read once.
func (f *FolderSource) Latest() *cluster.Snapshot { return f.latest.Load() }

// Run reads the folder whenever it changes, until the context ends.
func (f *FolderSource) Run(ctx context.Context) error {
	notices, err := fsnotify.NewWatcher()
	if err != nil { // the limit of fs.inotify.max_user_instances, say
		f.log.Warn("no notices of changed manifests: reading them at intervals only", "every", f.rescan, "err", err)
		notices = &fsnotify.Watcher{}
	} else {
		defer func() { _ = notices.Close() }()
	}
	tick := time.NewTicker(f.rescan)
	defer tick.Stop()
	for {
		f.follow(notices) // before reading: what changes afterwards gives a notice
		f.read()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-notices.Events:
			f.waitQuiet(ctx, notices)
		case err := <-notices.Errors: // an overflow of the kernel's queue: whatever it was, read all
			f.log.Debug("notices of changed manifests are incomplete", "err", err)
		}
	}
}

// waitQuiet returns when there has been no notice for as long as files need to settle, or after ten times that.
func (f *FolderSource) waitQuiet(ctx context.Context, notices *fsnotify.Watcher) {
	enough := time.After(10 * f.settle)
	for {
		select {
		case <-ctx.Done():
			return
		case <-enough:
			return
		case <-time.After(f.settle):
			return
		case <-notices.Events:
		}
	}
}

// follow makes the kernel's notices be of the folder that the path leads to now.
func (f *FolderSource) follow(notices *fsnotify.Watcher) {
	now, err := os.Stat(f.dir)
	if err != nil || notices.Events == nil {
		return // read says what is wrong with the folder
	}
	// A new folder may have the number of an old one; the list knows that the old one is gone.
	if f.watched != nil && os.SameFile(now, f.watched) && len(notices.WatchList()) > 0 {
		return
	}
	_ = notices.Remove(f.dir) // that of a folder which is gone may be gone, too
	f.watched = nil
	if err := notices.Add(f.dir); err != nil {
		f.log.Warn("no notices of changed manifests: reading them at intervals only", "every", f.rescan, "err", err)
		return
	}
	f.watched = now
}

// read reads the folder and publishes what it says, if that is new.
func (f *FolderSource) read() {
	last := f.latest.Load()
	err := f.readFiles()
	if err != nil && last == nil {
		f.log.Warn("manifests cannot be read: trying again", "err", err)
		return
	}
	s := f.content.snapshot()
	if err != nil {
		s.Problems = append(s.Problems, cluster.Problem{Object: f.dir, Message: err.Error() + ": everything counts as it last did"})
		sortSnapshot(s)
	}
	if last == nil || !reflect.DeepEqual(last, s) {
		f.latest.Store(s)
		f.changed.send()
	}
}

func (f *FolderSource) readFiles() error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	there := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		if !isManifest(name) {
			continue
		}
		there[name] = true
		if data, err := readFile(filepath.Join(f.dir, name)); err != nil {
			f.content.fail(name, err)
		} else {
			f.content.set(name, data)
		}
	}
	for name := range f.content.files {
		if !there[name] {
			delete(f.content.files, name)
		}
	}
	return nil
}

func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// readFile reads a manifest file. It opens nothing that could block or never end.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read manifest: %w", err)
	case !info.Mode().IsRegular():
		return nil, errors.New("read manifest: not a file")
	case info.Size() > maxFile:
		return nil, fmt.Errorf("read manifest: larger than %d MiB", maxFile>>20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return data, nil
}
