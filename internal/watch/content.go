package watch

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/table"
)

// content is what a folder's files say, by file name. A file, or an object in it, that cannot be read any more counts
// as it last did: a half-saved file must not tear down the network.
type content struct {
	parser parser
	files  map[string]*file
	last   *cluster.Snapshot // whose objects stay as long as they say the same
}

// file is one file's content.
type file struct {
	sum     [sha256.Size]byte
	objects []manifest // in the file's order
	problem string     // why objects are those of an earlier state, or none; empty: they are not
}

func newContent() *content {
	return &content{parser: newParser(), files: map[string]*file{}, last: &cluster.Snapshot{}}
}

// set takes a file's new bytes.
func (c *content) set(name string, data []byte) {
	old := c.files[name]
	sum := sha256.Sum256(data)
	if old != nil && old.sum == sum && old.problem == "" {
		return
	}
	objects, err := c.parser.parse(name, data)
	switch {
	case err != nil:
		c.fail(name, err)
	case len(data) == 0 && old != nil:
		c.fail(name, errors.New("the file is empty (delete it if nothing in it is wanted any more)"))
	default:
		c.files[name] = &file{sum: sum, objects: keepBroken(objects, old)}
	}
}

// fail says that a file that is there cannot be read.
func (c *content) fail(name string, err error) {
	f := &file{problem: strings.Join(strings.Fields(err.Error()), " ")} // one line, which YAML's errors are not
	if old := c.files[name]; old != nil {
		f.objects = old.objects
	}
	if len(f.objects) > 0 {
		f.problem += ": the file counts as it last did"
	}
	c.files[name] = f
}

// keepBroken gives objects that cannot be read the value they had in the file's state before.
func keepBroken(objects []manifest, old *file) []manifest {
	if old == nil {
		return objects
	}
	had := map[string]any{}
	for _, m := range old.objects {
		if m.value != nil && !m.closed {
			had[m.id] = m.value
		}
	}
	for i, m := range objects {
		if v := had[m.id]; m.broken && v != nil {
			objects[i].value, objects[i].closed = v, false
			objects[i].problems = append(m.problems, "the object counts as it last did")
		}
	}
	return objects
}

// snapshot puts the files together, in order of their names: of two objects with one name the first counts. Objects
// in maps that say what they said in the last Snapshot are the same ones.
func (c *content) snapshot() *cluster.Snapshot {
	s := &cluster.Snapshot{}
	g := newGathered()
	first := map[string]string{} // object → file and line of the one that counts
	for _, name := range table.Keys(c.files) {
		f := c.files[name]
		if f.problem != "" {
			s.Problems = append(s.Problems, cluster.Problem{Object: name, Message: f.problem})
		}
		s.Incomplete = s.Incomplete || f.problem != "" && len(f.objects) == 0
		for _, m := range f.objects {
			s.Incomplete = s.Incomplete || m.broken && m.value == nil
			where := fmt.Sprintf("%s:%d", name, m.line)
			for _, p := range m.problems {
				s.Problems = append(s.Problems, cluster.Problem{Object: cmp.Or(m.id, name), Message: where + ": " + p})
			}
			if m.value == nil {
				g.unread[m.id] = true
				continue
			}
			if other, ok := first[m.id]; ok {
				s.Problems = append(s.Problems, cluster.Problem{Object: m.id, Message: where + ": there is one of that name at " + other + ", which counts"})
				continue
			}
			first[m.id] = where
			g.put(m.value, s)
		}
	}
	s.Problems = append(s.Problems, g.homeless()...)
	g.finish(s, c.last)
	sortSnapshot(s)
	c.last = s
	return s
}
