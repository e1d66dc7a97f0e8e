package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// flags are a command's flags and what it says of itself.
type flags struct {
	*flag.FlagSet
	synopsis string // behind the command's name: "NAME [--node NODE]"
	long     string // some lines on what it does
}

func newFlags(name, synopsis, long string) *flags {
	f := &flags{flag.NewFlagSet(name, flag.ContinueOnError), synopsis, long}
	f.SetOutput(io.Discard) // errors are ours to print, on one line
	return f
}

// parse reads flags and between them exactly as many other words as the last argument names; a name that ends in "…"
// takes all the rest as it is, with an optional "--" before it. A name in brackets, the last one, may be missing.
func (f *flags) parse(e env, args []string, names ...string) ([]string, error) {
	var words []string
	for {
		err := f.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			f.help(e.stdout)
			return nil, errHelp
		}
		if err != nil {
			return nil, usagef("%s: %v: see 'polder %s --help'", f.Name(), err, f.Name())
		}
		args = f.Args()
		if len(args) == 0 {
			break
		}
		if len(words) == len(names) {
			return nil, usagef("%s: one word too many: %q", f.Name(), args[0])
		}
		words, args = append(words, args[0]), args[1:]
		if len(words) == len(names)-1 && strings.HasSuffix(names[len(names)-1], "…") {
			return f.rest(words, args, names)
		}
	}
	if len(words) < len(names) && !strings.HasPrefix(names[len(words)], "[") {
		return nil, usagef("%s: %s is missing: see 'polder %s --help'", f.Name(), names[len(words)], f.Name())
	}
	return words, nil
}

// given says whether a flag was on the command line.
func (f *flags) given(name string) (is bool) {
	f.Visit(func(g *flag.Flag) { is = is || g.Name == name })
	return is
}

// rest ends a parse in which what follows belongs to another program.
func (f *flags) rest(words, args, names []string) ([]string, error) {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return nil, usagef("%s: %s is missing: see 'polder %s --help'", f.Name(), names[len(words)], f.Name())
	}
	return append(words, args...), nil
}

func (f *flags) help(w io.Writer) {
	fmt.Fprintf(w, "usage: %s\n\n%s\n", strings.TrimSpace("polder "+f.Name()+" "+f.synopsis), strings.TrimSpace(f.long))
	var t textTable
	f.VisitAll(func(g *flag.Flag) {
		dashes := "--"
		if len(g.Name) == 1 {
			dashes = "-"
		}
		value, usage := flag.UnquoteUsage(g)
		if g.DefValue != "" && g.DefValue != "false" && g.DefValue != "0" {
			usage += fmt.Sprintf(" (default %s)", g.DefValue)
		}
		t.add("  "+strings.TrimSpace(dashes+g.Name+" "+value), usage)
	})
	if len(t.rows) > 0 {
		fmt.Fprintln(w)
		t.write(w)
	}
}
