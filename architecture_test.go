// Package polder is the whole tree. There is nothing in it but the rules that every package keeps.
package polder

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/polder-net/polder/"

// layer is which packages may import which: only those of a lower number. Packages of one layer leave each other
// alone, so that each can be read, tested and replaced by itself.
type layer int

const (
	core  layer = iota // a pure function of its inputs
	shell              // one outside world each
	loop               // the agent, which alone knows core and shell, and its protocol
	top                // programs, and what drives them
	tests              // for tests alone; may use what they like
)

func layers() map[string]layer {
	return map[string]layer{
		"internal/plain": core, "internal/cluster": core, "internal/table": core, "internal/ipam": core, "internal/route": core,
		"internal/service": core, "internal/policy": core, "internal/desired": core,
		"internal/oracle":  core, // what tests judge by, and the command line explains with
		"internal/explain": core, // the oracle's answers in words

		"internal/watch": shell, "internal/datapath": shell, "internal/netdev": shell, "internal/probe": shell,
		"internal/podexec": shell,
		"internal/health":  shell, // HTTP health checks: who answers load balancers knows neither cluster nor kernel

		"internal/api": loop, "internal/agent": loop,

		"cmd": top, "lab": top, "bench": top, "deploy": top, "e2e": top,

		"internal/oracle/cases": tests, "internal/scenario": tests, "internal/testnet": tests, "internal/traffic": tests,
		"lab/labtest": tests, ".": tests,
	}
}

// sideways are the imports within a layer that there are, and why.
func sideways() map[string][]string {
	return map[string][]string{
		"internal/cluster": {"internal/plain"},                     // whose words are its own, too
		"internal/ipam":    {"internal/cluster", "internal/table"}, // all of the core reads the inputs
		"internal/route":   {"internal/cluster", "internal/table"}, // and says its rows
		"internal/service": {"internal/cluster", "internal/table"},
		"internal/policy":  {"internal/cluster", "internal/table"},
		"internal/oracle":  {"internal/cluster"},
		"internal/explain": {"internal/cluster", "internal/oracle"},
		"internal/desired": {"internal/cluster", "internal/table", "internal/ipam", "internal/route", "internal/service", "internal/policy"}, // puts the core together
		"internal/agent":   {"internal/api"},                                                                                                 // answers it
		"cmd":              {"lab"},                                                                                                          // the command line drives it
		"bench":            {"lab"},
	}
}

// dependency is a module of others, who may import it, and why nobody else. A new one needs a line in
// docs/adr/0006-dependencies.md, too.
type dependency struct {
	path   string
	owners []string
	reason string
}

func dependencies() []dependency {
	return []dependency{
		{"k8s.io/client-go", []string{"internal/watch", "internal/podexec", "lab", "e2e"}, "the API's machinery stays behind the Snapshot"},
		{"k8s.io/api", []string{"internal", "lab", "e2e"}, "the CNI plugin must start in a few ms"},
		{"k8s.io/apimachinery", []string{"internal", "lab", "bench", "e2e"}, "the CNI plugin must start in a few ms"},
		{"sigs.k8s.io/network-policy-api", []string{"internal/watch", "internal/oracle", "internal/explain", "cmd/polder", "lab", "e2e"}, "policies are read in one place; the oracle judges what was written, explain says it in words, and the others write it"},
		{"k8s.io/streaming", []string{"internal/podexec"}, "what client-go upgrades connections with"},
		{"sigs.k8s.io/yaml", []string{"internal/watch", "internal/oracle/cases", "lab", "bench", "e2e"}, "manifests are read in one place; the others write them"},
		{"github.com/go-logr/logr", []string{"internal/watch", "internal/podexec"}, "client-go's words for a log; ours is log/slog"},
		{"github.com/fsnotify/fsnotify", []string{"internal/watch"}, "the folder of manifests is a source of cluster state"},
		{"github.com/cilium/ebpf", []string{"internal/datapath", "bench"}, "row and map entry meet in one place"},
		{"github.com/vishvananda/netlink", []string{"internal/netdev", "internal/testnet", "lab", "bench", "e2e"}, "rows and kernel objects meet in one place; the others build machines, not pods"},
		{"github.com/google/nftables", []string{"internal/netdev", "bench"}, "one table, written in one place"},
		{"github.com/containernetworking/cni", []string{"cmd/polder-cni", "lab", "bench"}, "the agent knows no CNI but its own protocol"},
		{"github.com/prometheus/client_golang", []string{"internal/agent"}, "metrics are read from the published state"},
		{"golang.org/x/sys", []string{"internal/agent", "internal/api", "internal/datapath", "internal/netdev", "internal/probe", "internal/testnet", "internal/traffic", "cmd/polder", "lab", "bench", "e2e"}, "the core makes no system calls"},
		{"golang.org/x/sync", []string{"internal/agent", "cmd", "lab", "bench", "e2e"}, "goroutines start in agent and cmd"},
		{"golang.org/x/tools", []string{"internal/scenario", "internal/oracle/cases"}, "txtar is the scenarios' format"},
		{"github.com/google/go-cmp", nil, "for tests alone"},
	}
}

// source is a Go file that people wrote.
type source struct {
	dir, path string // from the root
	file      *ast.File
	test      bool
}

func (s source) at(fset *token.FileSet, n ast.Node) string {
	return s.path + ":" + strconv.Itoa(fset.Position(n.Pos()).Line)
}

// sources parses the tree, without generated files and without tools/, which is not the product.
func sources(t *testing.T) ([]source, *token.FileSet) {
	t.Helper()
	fset := token.NewFileSet()
	var all []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path != "." && strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "bin", "dist", "tools"}, d.Name())) {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err == nil && !ast.IsGenerated(file) {
			all = append(all, source{filepath.ToSlash(filepath.Dir(path)), path, file, strings.HasSuffix(path, "_test.go")})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, fset
}

// within says whether a package is one of the owners or below one.
func within(dir string, owners []string) bool {
	return slices.ContainsFunc(owners, func(o string) bool { return dir == o || strings.HasPrefix(dir, o+"/") })
}

// place finds a package in the layers: itself, or the closest folder above it.
func place(dir string) (name string, at layer, ok bool) {
	for name = dir; ; name = filepath.Dir(name) {
		if at, ok = layers()[name]; ok || name == "." {
			return name, at, ok && (name != "." || dir == ".")
		}
	}
}

func TestPackagesImportDownwardsOnly(t *testing.T) {
	all, fset := sources(t)
	for _, s := range all {
		from, at, ok := place(s.dir)
		if !ok {
			t.Errorf("%s: has no place among the layers: give it one in architecture_test.go", s.dir)
		}
		if s.test || at == tests {
			continue
		}
		for _, i := range s.file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			dir, own := strings.CutPrefix(path, module)
			if !own {
				continue
			}
			to, below, _ := place(dir)
			if from == to || below < at || slices.Contains(sideways()[from], to) {
				continue
			}
			t.Errorf("%s: %s must not import %s: imports go down, cmd and lab → agent and api → shell → core, and not sideways", s.at(fset, i), s.dir, dir)
		}
	}
}

func TestDependenciesHaveOneDoor(t *testing.T) {
	all, fset := sources(t)
	for _, s := range all {
		for _, i := range s.file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			isModuleList := within(s.dir, []string{"e2e/modules"}) // they name the programs that the rig builds
			if s.test || isModuleList || strings.HasPrefix(path, module) || !strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
				continue
			}
			at := slices.IndexFunc(dependencies(), func(d dependency) bool { return within(path, []string{d.path}) })
			if at < 0 {
				t.Errorf("%s: %s is no dependency of ours: add it to architecture_test.go and to docs/adr/0006-dependencies.md", s.at(fset, i), path)
				continue
			}
			if d := dependencies()[at]; !within(s.dir, d.owners) {
				t.Errorf("%s: %s must not import %s: %s", s.at(fset, i), s.dir, path, d.reason)
			}
		}
	}
}

// The core is a function of its inputs: that is why most tests need no root and no time.
func TestTheCoreIsPure(t *testing.T) {
	impure := []string{"os", "os/exec", "net", "net/http", "log", "log/slog", "syscall", "io/fs", "sync", "sync/atomic", "math/rand", "math/rand/v2", "crypto/rand", "unsafe"}
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}
	all, fset := sources(t)
	for _, s := range all {
		if _, at, _ := place(s.dir); at != core || s.test {
			continue
		}
		for _, i := range s.file.Imports {
			if path, _ := strconv.Unquote(i.Path.Value); slices.Contains(impure, path) {
				t.Errorf("%s: the core must not import %s", s.at(fset, i), path)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: the core starts no goroutine", s.at(fset, n))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
					t.Errorf("%s: the core has no clock: take the time as an argument", s.at(fset, n))
				}
			}
			return true
		})
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	all, _ := sources(t)
	docs := map[string]string{}
	for _, s := range all {
		if doc := s.file.Doc.Text(); !s.test || docs[s.dir] == "" { // a folder of tests alone says it in one of them
			docs[s.dir] += doc
		}
		if s.file.Name.Name == "main" && !s.test && s.file.Doc.Text() != "" {
			docs[s.dir] = "Command " + docs[s.dir] // begins with its own name
		}
	}
	for dir, doc := range docs {
		if !strings.HasPrefix(doc, "Package ") && !strings.HasPrefix(doc, "Command ") {
			t.Errorf("%s: has no doc comment that says what it owns", dir)
		}
	}
}

func TestExportedNamesSayWhatTheyAre(t *testing.T) {
	all, fset := sources(t)
	for _, s := range all {
		if s.test || s.file.Name.Name == "main" {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				wellKnown := slices.Contains([]string{"String", "Error", "Unwrap", "MarshalText", "UnmarshalText", "Enabled", "Handle", "WithAttrs", "WithGroup"}, d.Name.Name)
				if d.Name.IsExported() && d.Doc == nil && !(d.Recv != nil && (wellKnown || !ast.IsExported(receiver(d)))) {
					t.Errorf("%s: %s has no doc comment", s.at(fset, d), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && ts.Doc == nil && d.Doc == nil {
						t.Errorf("%s: %s has no doc comment", s.at(fset, ts), ts.Name.Name)
					}
				}
			}
		}
	}
}

// receiver is the name of a method's type.
func receiver(d *ast.FuncDecl) string {
	name := ""
	ast.Inspect(d.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && name == "" {
			name = id.Name
		}
		return true
	})
	return name
}

// State that no one passes on is state that no test can set up and no reader can follow.
func TestPackagesHaveNoHiddenState(t *testing.T) {
	all, fset := sources(t)
	for _, s := range all {
		if s.test {
			continue
		}
		for _, d := range s.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s: no init: what has to be made is made by who needs it", s.at(fset, fn))
			}
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				if !isConstant(v) && !isEmbedded(g, v) && !isLinked(s, v) && v.Names[0].Name != "_" {
					t.Errorf("%s: no package variables but errors: %s", s.at(fset, v), v.Names[0].Name)
				}
			}
		}
	}
}

// isConstant knows what is made once and never changes: errors and compiled expressions.
func isConstant(v *ast.ValueSpec) bool {
	if len(v.Values) != 1 {
		return false
	}
	call, ok := v.Values[0].(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && slices.Contains([]string{"errors.New", "fmt.Errorf", "regexp.MustCompile"}, pkg.Name+"."+sel.Sel.Name)
}

func isEmbedded(g *ast.GenDecl, v *ast.ValueSpec) bool {
	return strings.Contains(directives(g.Doc)+directives(v.Doc), "//go:embed ")
}

func directives(g *ast.CommentGroup) (text string) {
	if g != nil {
		for _, c := range g.List {
			text += c.Text + "\n"
		}
	}
	return text
}

// isLinked knows the version, which the linker sets.
func isLinked(s source, v *ast.ValueSpec) bool {
	return s.file.Name.Name == "main" && v.Names[0].Name == "version"
}

// An error is "verb object: cause". That it is an error says that something failed.
func TestErrorsSayWhatWasTried(t *testing.T) {
	all, fset := sources(t)
	for _, s := range all {
		ast.Inspect(s.file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && !s.test && l.Kind == token.STRING && strings.Contains(strings.ToLower(l.Value), "failed to") {
				t.Errorf("%s: write \"verb object: cause\": %s", s.at(fset, l), l.Value)
			}
			return true
		})
	}
}

func TestNamesSayWhatIsInThem(t *testing.T) {
	all, _ := sources(t)
	for _, s := range all {
		for _, bad := range []string{"util", "common", "helper", "manager", "handler", "misc"} {
			if strings.Contains(s.dir, bad) || strings.Contains(filepath.Base(s.path), bad) {
				t.Errorf("%s: a name with %q says nothing", s.path, bad)
			}
		}
	}
}

func TestTheLicenceIsApache2(t *testing.T) {
	data, err := os.ReadFile("LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"} {
		if !strings.Contains(string(data), part) {
			t.Errorf("LICENSE lacks %q", part)
		}
	}
}
