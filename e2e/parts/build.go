package parts

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Build builds every part that the cache lacks and says so on out, one line a part.
func (c Cache) Build(ctx context.Context, out io.Writer) error {
	var missing []Part
	for _, part := range All() {
		path, err := c.Path(part.Name)
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, part)
		}
	}
	for i, part := range missing {
		fmt.Fprintf(out, "build %d of %d: %s ...", i+1, len(missing), part.Name)
		start := time.Now()
		if err := c.buildOne(ctx, part); err != nil {
			fmt.Fprintln(out)
			return err
		}
		fmt.Fprintf(out, " %d s\n", int(time.Since(start).Seconds()))
	}
	return nil
}

// buildOne writes a part beside its place and renames it, so that a build that was stopped leaves no half program.
func (c Cache) buildOne(ctx context.Context, part Part) error {
	path, err := c.Path(part.Name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create cache folder: %w", err)
	}
	version, err := c.Version(part.Module)
	if err != nil {
		return err
	}
	unfinished := path + ".unfinished"
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "10"}, goArguments(part, version, unfinished)...)...)
	cmd.Dir = filepath.Join(c.Source, "modules", part.Module)
	if part.Module == "" {
		cmd.Dir = c.Source
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", part.Name, err, output)
	}
	if err := os.Rename(unfinished, path); err != nil {
		return fmt.Errorf("keep %s: %w", part.Name, err)
	}
	return nil
}

// goArguments is the go command line of a part. Kubernetes compares its programs' versions, and only the linker sets them.
func goArguments(part Part, version, output string) []string {
	flags := []string{"-s", "-w"}
	if part.Module == "kubernetes" {
		numbers := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
		for _, set := range []string{"gitVersion=" + version, "gitMajor=" + numbers[0], "gitMinor=" + numbers[1], "gitTreeState=clean"} {
			flags = append(flags, "-X k8s.io/component-base/version."+set)
		}
	}
	command := []string{"go", "build"}
	if part.Test {
		command = []string{"go", "test", "-c"}
	}
	return append(command, "-trimpath", "-ldflags", strings.Join(flags, " "), "-o", output, part.Package)
}
