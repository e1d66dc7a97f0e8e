package watch

import "testing"

// The runtime is told the UID that the kubelet gave; what the API has of such a pod has another.
func TestAStaticPodHasTheKubeletsUID(t *testing.T) {
	const hash = "d2a9f5f0c6b1e8e2a1c0d7b3f4e5a697"
	for name, c := range map[string]struct {
		annotations map[string]string
		want        string
	}{
		"a mirror pod":    {map[string]string{"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash}, hash},
		"without a hash":  {map[string]string{"kubernetes.io/config.mirror": hash}, "uid-web"},
		"no mirror pod":   {map[string]string{"kubernetes.io/config.hash": hash}, "uid-web"},
		"any pod":         {nil, "uid-web"},
		"an empty mirror": {map[string]string{"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": ""}, "uid-web"},
	} {
		p := kubePod("ns", "web", "a", "10.1.0.7")
		p.Annotations = c.annotations
		if got, _ := readPod(p, nil); got.UID != c.want {
			t.Errorf("%s: UID %q, want %q", name, got.UID, c.want)
		}
	}
}
