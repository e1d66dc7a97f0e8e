// Command sizes measures a source tree: lines by package, the longest functions, the largest files. With -check it
// fails on what is beyond the project's limits.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The limits, in lines. A function beyond its limit needs a comment in it or above it that begins with "Long:" and
// says why. Tests are free: their tables are data.
const (
	goFunctionLimit = 80
	cFunctionLimit  = 60
	headerLimit     = 300
	datapathLimit   = 3550 // all of bpf/ (docs/adr/0016-the-datapaths-budget.md)
)

// function is a function of a source file.
type function struct {
	where, name string
	lines       int
	excused     bool // it says why it is long
}

// source is a source file.
type source struct {
	path      string // from the root
	lines     int
	functions []function
	directive int // line of the first #if, 0: none
}

func main() {
	check := flag.Bool("check", false, "fail on what is beyond the limits")
	flag.Parse()
	sources, err := measure(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "sizes:", err)
		os.Exit(1)
	}
	if !*check {
		report(sources)
		return
	}
	beyond := violations(sources)
	for _, v := range beyond {
		fmt.Println(v)
	}
	if len(beyond) > 0 {
		os.Exit(1)
	}
}

// measure reads all sources below a folder but generated ones.
func measure(root string) ([]source, error) {
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "dist") {
			return filepath.SkipDir
		}
		ext := filepath.Ext(name)
		if d.IsDir() || !slices.Contains([]string{".go", ".c", ".h"}, ext) {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		s := source{path: rel, lines: strings.Count(string(data), "\n")}
		if ext == ".go" {
			if strings.HasPrefix(string(data), "// Code generated ") {
				return nil
			}
			s.functions, err = goFunctions(rel, data)
		} else {
			s.functions, s.directive = cFunctions(rel, string(data))
		}
		all = append(all, s)
		return err
	})
	return all, err
}

func violations(sources []source) []string {
	var out []string
	datapath := 0
	for _, s := range sources {
		ext := filepath.Ext(s.path)
		inDatapath := strings.HasPrefix(s.path, "bpf/")
		if inDatapath {
			datapath += s.lines
		}
		if inDatapath && s.directive > 0 {
			out = append(out, fmt.Sprintf("%s:%d: no #if in the datapath: one object serves all, constants decide at load time", s.path, s.directive))
		}
		if ext == ".h" && s.lines > headerLimit {
			out = append(out, fmt.Sprintf("%s: %d lines, limit %d", s.path, s.lines, headerLimit))
		}
		limit := goFunctionLimit
		if ext != ".go" {
			limit = cFunctionLimit
		}
		for _, f := range s.functions {
			if f.lines > limit && !f.excused && !strings.HasSuffix(s.path, "_test.go") {
				out = append(out, fmt.Sprintf("%s: %s has %d lines, limit %d: split it, or say why not in a comment that begins with \"Long:\"", f.where, f.name, f.lines, limit))
			}
		}
	}
	if datapath > datapathLimit {
		out = append(out, fmt.Sprintf("bpf/: %d lines, limit %d", datapath, datapathLimit))
	}
	return out
}

func report(sources []source) {
	reportPackages(sources)
	reportLongest(slices.DeleteFunc(slices.Clone(sources), func(s source) bool { return strings.HasSuffix(s.path, "_test.go") }))
}

func reportPackages(sources []source) {
	type size struct{ code, tests int }
	packages := map[string]size{}
	total := size{}
	for _, s := range sources {
		dir := filepath.Dir(s.path)
		p := packages[dir]
		if strings.HasSuffix(s.path, "_test.go") {
			p.tests += s.lines
			total.tests += s.lines
		} else {
			p.code += s.lines
			total.code += s.lines
		}
		packages[dir] = p
	}
	fmt.Printf("%-28s %7s %7s\n", "lines of", "code", "tests")
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		fmt.Printf("%-28s %7d %7d\n", name, packages[name].code, packages[name].tests)
	}
	fmt.Printf("%-28s %7d %7d\n", "all", total.code, total.tests)
}

func reportLongest(sources []source) {
	var functions []function
	for _, s := range sources {
		functions = append(functions, s.functions...)
	}
	fmt.Println("\nlongest functions, tests aside")
	slices.SortStableFunc(functions, func(a, b function) int { return cmp.Compare(b.lines, a.lines) })
	for _, f := range functions[:min(5, len(functions))] {
		fmt.Printf("%7d  %s (%s)\n", f.lines, f.name, f.where)
	}
	fmt.Println("\nlargest files, tests aside")
	slices.SortStableFunc(sources, func(a, b source) int { return cmp.Compare(b.lines, a.lines) })
	for _, s := range sources[:min(5, len(sources))] {
		fmt.Printf("%7d  %s\n", s.lines, s.path)
	}
}
