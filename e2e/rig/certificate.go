package rig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// credentials are the files that let the parts of a cluster trust each other: one certificate that is its own
// authority, its key, which signs the service accounts' tokens as well, and a token for each user.
type credentials struct{ dir string }

func (c credentials) certificate() string { return filepath.Join(c.dir, "tls.crt") }
func (c credentials) key() string         { return filepath.Join(c.dir, "tls.key") }
func (c credentials) tokenFile() string   { return filepath.Join(c.dir, "tokens.csv") }

// kubeconfigFile is where a user's kubeconfig lies.
func kubeconfigFile(dir, user string) string {
	return filepath.Join(dir, strings.ReplaceAll(user, ":", "-")+".kubeconfig")
}

// writeCredentials makes everything anew in a folder.
func writeCredentials(dir string, plan Plan) (credentials, error) {
	c := credentials{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return c, fmt.Errorf("create credentials: %w", err)
	}
	if err := c.writeCertificate(plan.certificateAddresses()); err != nil {
		return c, fmt.Errorf("create certificate: %w", err)
	}
	return c, c.writeUsers(plan)
}

func (c credentials) writeCertificate(addresses []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "polder-e2e"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(30 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(address)) // the field's own type
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.certificate(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(c.key(), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600)
}

// user is a line of the API server's token file.
type user struct{ name, groups string }

func users(plan Plan) []user {
	list := []user{
		{"admin", "system:masters"}, {"system:kube-controller-manager", ""}, {"system:kube-scheduler", ""}, {"system:kube-proxy", ""},
	}
	for _, node := range plan.NodeNames() {
		list = append(list, user{"system:node:" + node, "system:nodes"})
	}
	return list
}

func (c credentials) writeUsers(plan Plan) error {
	var lines strings.Builder
	for _, u := range users(plan) {
		random := make([]byte, 16)
		if _, err := rand.Read(random); err != nil {
			return fmt.Errorf("create token: %w", err)
		}
		token := hex.EncodeToString(random)
		fmt.Fprintf(&lines, "%s,%s,%s,%q\n", token, u.name, u.name, u.groups)
		content := kubeconfig(plan.APIServerURL(), c.certificate(), token)
		if err := os.WriteFile(kubeconfigFile(c.dir, u.name), []byte(content), 0o600); err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
	}
	if err := os.WriteFile(c.tokenFile(), []byte(lines.String()), 0o600); err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	return nil
}

func kubeconfig(server, certificate, token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: polder
  cluster:
    server: %s
    certificate-authority: %s
users:
- name: user
  user:
    token: %s
contexts:
- name: polder
  context:
    cluster: polder
    user: user
current-context: polder
`, server, certificate, token)
}
