// Command bench compares Polder with the kernel alone and with the reference CNI plugins, side by side in one run, and
// says which of its promises it keeps. It needs root; it builds what it compares, and leaves nothing behind.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/report"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == load.Program {
		exit(load.Main(os.Args[2:]))
		return
	}
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = o.run()
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	only   []string
	quick  bool
	rounds int
	slice  time.Duration
	churn  time.Duration
	output string
	docs   string
	bin    string
	state  string
}

func parseOptions(args []string) (options, error) {
	o := options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := f.String("only", "", "measure `these` alone: P1 to P8, C1 to C5, S1 to S9, N1 to N5, comma-separated")
	f.BoolVar(&o.quick, "quick", false, "fewer rounds, shorter ones: minutes instead of half an hour")
	f.IntVar(&o.rounds, "rounds", 0, "`number` of rounds (default 15, quick 7)")
	f.DurationVar(&o.slice, "slice", 0, "`time` for each variant in a round (default 2s, quick 400ms)")
	f.DurationVar(&o.churn, "churn", 0, "`time` that C5 lasts (default 1m, quick 15s; its bar is meant for 10m)")
	f.StringVar(&o.output, "o", "text", "`text` or json, which has all samples")
	f.StringVar(&o.docs, "docs", "", "write benchmarks.md and benchmarks.svg to this `folder` (default docs if everything is measured in full)")
	f.StringVar(&o.bin, "bin", "", "the `folder` of polder, polder-agent and polder-cni (default: build them)")
	f.StringVar(&o.state, "state", "/run/polder-bench", "the labs' `folder`")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 || o.output != "text" && o.output != "json" {
		return o, fmt.Errorf("unexpected argument: see --help")
	}
	if *only != "" {
		o.only = strings.Split(strings.ToUpper(*only), ",")
	}
	return o.complete()
}

func (o options) complete() (options, error) {
	for _, id := range o.only {
		if !isMeasure(id) {
			return o, fmt.Errorf("--only %s: there are P1 to P8, C1 to C5, S1 to S9 and N1 to N5", id)
		}
	}
	if os.Geteuid() != 0 {
		return o, errors.New("the benchmark needs root: it makes namespaces and links")
	}
	o.preset()
	return o, nil
}

// preset fills in what the command line does not say.
func (o *options) preset() {
	if o.docs == "" && !o.quick && o.only == nil {
		o.docs = "docs"
	}
	rounds, slice, churn := 15, 2*time.Second, time.Minute
	if o.quick {
		rounds, slice, churn = 7, 400*time.Millisecond, 15*time.Second
	}
	o.rounds, o.slice, o.churn = cmp.Or(o.rounds, rounds), cmp.Or(o.slice, slice), cmp.Or(o.churn, churn)
}

func isMeasure(id string) bool {
	last := map[string]string{"P": "8", "C": "5", "S": "9", "N": "5"}
	return len(id) == 2 && id[1:] >= "1" && id[1:] <= last[id[:1]]
}

// measures says whether one of these is to be measured.
func (o options) measures(ids ...string) bool {
	return o.only == nil || slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(o.only, id) })
}

func (o options) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	r, err := measureAll(ctx, o)
	if err != nil {
		return err
	}
	if o.docs != "" {
		if err := writeDocs(o.docs, r); err != nil {
			return err
		}
	}
	if o.output == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", " ")
		return e.Encode(r)
	}
	return report.Text(os.Stdout, r)
}

func writeDocs(folder string, r report.Report) error {
	for name, body := range map[string]string{"benchmarks.md": report.Page(r), "benchmarks.svg": report.Plot(r)} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(body), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
