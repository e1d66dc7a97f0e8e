package parts

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// debianPrograms maps each program that the rig or its images need to the Debian package that has it.
func debianPrograms() [][2]string {
	return [][2]string{
		{"runc", "runc"}, {"nft", "nftables"}, {"conntrack", "conntrack"}, {"busybox", "busybox-static"}, {"bash", "bash"},
		{"nc.openbsd", "netcat-openbsd"}, {"dig", "bind9-dnsutils"}, {"curl", "curl"}, {"wget", "wget"}, {"socat", "socat"},
		{"iperf", "iperf"}, {"ip", "iproute2"}, {"ss", "iproute2"}, {"tc", "iproute2"}, {"nsenter", "util-linux"}, {"mount", "mount"},
	}
}

// InstallDebian installs the Debian packages whose programs are missing.
func InstallDebian(ctx context.Context, out io.Writer) error {
	var missing []string
	for _, pair := range debianPrograms() {
		if _, err := exec.LookPath(pair[0]); err != nil {
			missing = append(missing, pair[1])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintf(out, "install Debian packages: %s\n", strings.Join(missing, " "))
	install := append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)
	for _, arguments := range [][]string{{"update", "-qq"}, install} {
		cmd := exec.CommandContext(ctx, "apt-get", arguments...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("install Debian packages: %w\n%s", err, output)
		}
	}
	return nil
}
