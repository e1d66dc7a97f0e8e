package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAWordThatNobodyKnowsIsAnError(t *testing.T) {
	for line, want := range map[string]string{
		"service default/web clusterip 10.96.0.10 port http:80/TCP nodeport 30080": "",
		"service default/web clusterIP 10.96.0.10":                                 "unknown word",
		"service default/web nodeport 30080":                                       "no port is before",
		"service default/web port http:80/ICMP":                                    "unknown protocol",
		"service default/web port 80/TCP":                                          "is not name:number/protocol",
		"slice default/web web-1 port http:80800/TCP":                              "out of range",
		"slice default/web web-1 http:80/TCP":                                      "unknown word",
		"endpoint 10.0.1.2":                                                        "no slice is above",
		"slice default/web web-1\nendpoint 10.0.1.2 up":                            "unknown word",
		"zone a z1":                     "no node a is above",
		"host-port 192.0.2.1:80/TCP 80": "no pod is above",
	} {
		path := filepath.Join(t.TempDir(), "x.txtar")
		if err := os.WriteFile(path, []byte("-- cluster --\n"+line+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Read(path)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
}
