package image

import (
	"fmt"
	"path/filepath"
)

// CoreDNSName is the image of the cluster's name server.
const CoreDNSName = "localhost/coredns:e2e"

// PauseName is the image that holds a pod's namespaces.
const PauseName = "registry.k8s.io/pause:3.10.2"

// Suite names the programs that the images of the e2e suite are made of.
type Suite struct {
	Agnhost       string
	AgnhostSource string // the folder of its sources, which has the certificate of its porter
	Regression    string // regression-issue-74839
	CoreDNS       string
	Pause         string
	SCTP          string
}

// Write writes every image that the network tests ask for, and those of the cluster itself, as one archive.
func (s Suite) Write(file string) error {
	tools, err := s.tools()
	if err != nil {
		return fmt.Errorf("collect root file system: %w", err)
	}
	pause, dns := NewRootfs(), NewRootfs()
	pause.File("/pause", s.Pause)
	dns.File("/coredns", s.CoreDNS)
	layers := map[string]*Rootfs{"tools": tools, "pause": pause, "coredns": dns, "sctp": s.ownSCTP()}
	return WriteArchive(file, layers, suiteImages())
}

func suiteImages() []Image {
	const tests = "registry.k8s.io/e2e-test-images/"
	return []Image{
		{Name: PauseName, Layers: []string{"pause"}, Entrypoint: []string{"/pause"}},
		{Name: CoreDNSName, Layers: []string{"coredns"}, Entrypoint: []string{"/coredns"}},
		{Name: tests + "agnhost:2.66.1", Layers: []string{"tools"}, Entrypoint: []string{"/agnhost"}, Args: []string{"pause"}},
		{Name: tests + "agnhost:2.55", Layers: []string{"tools"}, Entrypoint: []string{"/agnhost"}, Args: []string{"pause"}},
		{Name: tests + "agnhost:2.45", Layers: []string{"tools", "sctp"}, Entrypoint: []string{"/agnhost"}, Args: []string{"pause"}},
		{Name: tests + "regression-issue-74839:1.5", Layers: []string{"tools"}, Entrypoint: []string{"/regression-issue-74839"}},
		{Name: tests + "busybox:1.37.0-2", Layers: []string{"tools"}, Args: []string{"sh"}},
		{Name: tests + "glibc-dns-testing:2.1.1", Layers: []string{"tools"}, Args: []string{"bash"}},
	}
}

// agnhost is where the program lies that every image has at /agnhost.
const agnhost = "/usr/lib/agnhost"

// ownSCTP is what the policy suite's image has on top of the tools. Each of its server pods has containers that serve SCTP
// and, on a kernel that has none, would never get ready: there, a stand-in speaks it.
func (s Suite) ownSCTP() *Rootfs {
	root := NewRootfs()
	root.File("/usr/lib/sctp", s.SCTP)
	root.Script("/agnhost", `#!/bin/bash
if [[ ! -e /proc/sys/net/sctp ]]; then
	ports=(${!SERVE_SCTP_PORT_*})
	if [[ $1 = porter && ${#ports[@]} -gt 0 ]]; then exec /usr/lib/sctp serve "${ports[@]#SERVE_SCTP_PORT_}"; fi
	if [[ $1 = connect && " $* " = *" --protocol=sctp "* ]]; then exec /usr/lib/sctp "$@"; fi
fi
exec `+agnhost+` "$@"
`)
	return root
}

// tools is the one root file system of all test images: what upstream takes from Alpine comes from Debian here.
// The shell is bash, as busybox' own prefers its nc, which lacks the flags that the suite uses.
func (s Suite) tools() (*Rootfs, error) {
	root := NewRootfs()
	for at, name := range map[string]string{
		"/bin/bash": "bash", "/bin/nc": "nc.openbsd", "/usr/bin/dig": "dig", "/usr/bin/curl": "curl", "/usr/bin/wget": "wget",
		"/usr/bin/getent": "getent", "/sbin/ip": "ip", "/usr/bin/ss": "ss", "/usr/bin/socat": "socat", "/usr/bin/iperf": "iperf",
		"/usr/bin/timeout": "timeout", "/usr/bin/date": "date", "/usr/bin/ipcs": "ipcs", "/usr/sbin/conntrack": "conntrack",
	} {
		if err := root.Program(at, name); err != nil {
			return nil, err
		}
	}
	root.Link("/bin/sh", "bash")
	if err := root.Busybox(); err != nil {
		return nil, err
	}
	root.File(agnhost, s.Agnhost)
	root.Link("/agnhost", agnhost)
	root.File("/coredns", s.CoreDNS)
	root.File("/regression-issue-74839", s.Regression)
	root.File("/localhost.crt", filepath.Join(s.AgnhostSource, "porter", "localhost.crt"))
	root.File("/localhost.key", filepath.Join(s.AgnhostSource, "porter", "localhost.key"))
	root.Link("/agnhost-2", "agnhost")
	root.Link("/usr/local/bin/iperf", "/usr/bin/iperf")
	root.Text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
	root.Text("/etc/group", "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n")
	root.Text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n")
	for _, folder := range []string{"/uploads", "/root", "/home", "/dev", "/proc", "/sys", "/var/registry"} {
		root.Dir(folder, 0o755)
	}
	root.Dir("/tmp", 0o1777)
	root.Dir("/var/tmp", 0o1777)
	return root, nil
}
