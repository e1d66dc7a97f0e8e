package watch

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/polder-net/polder/internal/cluster"
)

// replicas is how many pods a workload has in these tests.
const replicas = 20

// workloadPod is the nth pod of a cluster, as Deployments make them: pods of one share all of their five labels. One is
// of a StatefulSet if alone: a label of it is its own.
func workloadPod(n int, alone bool) *corev1.Pod {
	app := fmt.Sprintf("service-%d", n/replicas)
	p := kubePod(fmt.Sprintf("team-%d", n/1000), fmt.Sprintf("%s-6d4cf56db6-%05d", app, n), fmt.Sprintf("ip-10-0-%d-%d.eu-west-1.compute.internal", n/100/250, n/100%250), nth(n))
	p.UID = "0b6b1f3e-8e0a-4f0b-9c56-0c9a5e0f7f9a"
	p.Labels = map[string]string{
		"app.kubernetes.io/name": app, "app.kubernetes.io/instance": app + "-prod", "app.kubernetes.io/version": "1.2.3",
		"pod-template-hash": "6d4cf56db6", "team": p.Namespace,
	}
	if alone {
		p.Labels["team"] = p.Name
	}
	p.Spec.Containers = []corev1.Container{{Name: "main", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}}}}
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}, {IP: fmt.Sprintf("fd00:244::%x:%x", n>>8, n&255)}}
	return p
}

func slimPods(t testing.TB, k *KubeSource, n int, alone bool) []any {
	transform := k.pods.Transformer()
	slim := make([]any, n)
	for i := range slim {
		var err error
		if slim[i], err = transform(workloadPod(i, alone)); err != nil {
			t.Fatal(err)
		}
	}
	return slim
}

// Pods of other nodes are what an agent has most of where policies are in force.
func TestAPodOfAnotherNodeCostsAtMost500Bytes(t *testing.T) {
	const n = 100_000
	for what, of := range map[string]struct {
		alone bool
		limit int64
	}{"of a workload of 20": {false, 500}, "with a label of its own": {true, 1000}} {
		k := judging(t)
		k.Latest()
		before := heap()
		must(t, k.pods.Replace(slimPods(t, k, n, of.alone), "1"))
		s := k.Latest()
		each := int64(heap()-before) / n
		t.Logf("%s: %d bytes a pod", what, each)
		if each > of.limit || s.AllPods.Len() != n {
			t.Errorf("%s: %d bytes each of %d pods", what, each, s.AllPods.Len())
		}
		runtime.KeepAlive(k)
		runtime.KeepAlive(s)
	}
}

// What one pod's change costs must not be a matter of how many there are.
func BenchmarkAPodOf100000Changes(b *testing.B) {
	const n = 100_000
	k := judging(b)
	start := time.Now()
	if err := k.pods.Replace(slimPods(b, k, n, false), "1"); err != nil {
		b.Fatal(err)
	}
	last := k.Latest()
	b.Logf("the first Snapshot took %v", time.Since(start))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		change := workloadPod(i%n, false)
		change.Labels["changed"] = fmt.Sprint(i)
		b.StartTimer()
		if err := k.pods.Update(change); err != nil {
			b.Fatal(err)
		}
		next := k.Latest()
		if changed := next.AllPods.ChangedSince(last.AllPods); len(changed) != 1 || changed[0] != (cluster.Name{Namespace: change.Namespace, Name: change.Name}) {
			b.Fatalf("changed: %v", changed)
		}
		last = next
	}
}
