package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strings"
)

// goFunctions lists the functions of a Go file.
func goFunctions(path string, data []byte) ([]function, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, data, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var all []function
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		first, last := fset.Position(fn.Pos()).Line, fset.Position(fn.End()).Line
		f := function{where: fmt.Sprintf("%s:%d", path, first), name: fn.Name.Name, lines: last - first + 1}
		for _, c := range file.Comments {
			inside := c.Pos() >= fn.Pos() && c.End() <= fn.End()
			if (inside || c == fn.Doc) && strings.Contains("\n"+c.Text(), "\nLong:") {
				f.excused = true
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// cFunctions lists the functions of a C file as clang-format leaves it, with a function's braces on lines of their
// own, and the line of the first #if.
func cFunctions(path, text string) (all []function, directive int) {
	name := regexp.MustCompile(`(\w+)\(`)
	conditional := regexp.MustCompile(`^\s*#\s*if`)
	lines := strings.Split(text, "\n")
	first, open := 0, -1 // line after the last one that ended something; line of the brace
	for i, line := range lines {
		if directive == 0 && conditional.MatchString(line) {
			directive = i + 1
		}
		switch {
		case line == "{":
			open = i
		case line == "}" && open >= 0:
			head := strings.Join(lines[first:open], "\n")
			f := function{where: fmt.Sprintf("%s:%d", path, first+1), lines: i - first + 1}
			if m := name.FindAllStringSubmatch(head, -1); m != nil {
				f.name = m[len(m)-1][1]
			}
			f.excused = strings.Contains(strings.Join(lines[max(0, first-3):i], "\n"), "// Long:")
			all = append(all, f)
			first, open = i+1, -1
		case open < 0 && (line == "" || strings.HasPrefix(line, "//") || strings.HasSuffix(line, ";")):
			first = i + 1
		}
	}
	return all, directive
}
