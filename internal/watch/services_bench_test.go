package watch

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// nth is the nth address of 10.0.0.0/8.
func nth(n int) string { return fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255) }

// A node may see 44,000 Services; what one endpoint's change costs must not be a matter of their number.
func BenchmarkAnEndpointOf44000ServicesChanges(b *testing.B) {
	const n = 44_000
	var services, sliced []any
	for i := range n {
		name := fmt.Sprintf("service-%d", i)
		services = append(services, kubeService("ns", name, nth(1<<20+i)))
		sliced = append(sliced, kubeSlice("ns", name+"-abcde", name, nth(i), nth(n+i), nth(2*n+i)))
	}
	k := toldOf(b)
	start := time.Now()
	if err := k.svcs.Replace(services, ""); err != nil {
		b.Fatal(err)
	}
	if err := k.slices.Replace(sliced, ""); err != nil {
		b.Fatal(err)
	}
	last := k.Latest()
	if last.Services.Len() != n {
		b.Fatal("services are missing")
	}
	b.Logf("the first Snapshot took %v", time.Since(start))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		name := fmt.Sprintf("service-%d", i%n)
		b.StopTimer()
		change := kubeSlice("ns", name+"-abcde", name, nth(3*n+i%(1<<20)))
		b.StartTimer()
		if err := k.slices.Update(change); err != nil {
			b.Fatal(err)
		}
		next := k.Latest()
		if next == last {
			b.Fatal("no change")
		}
		last = next
	}
}

func BenchmarkARelistOf250000Endpoints(b *testing.B) {
	k := toldOf(b)
	slim := slimSlices(b, k)
	for b.Loop() {
		if err := k.slices.Replace(slim(), ""); err != nil {
			b.Fatal(err)
		}
		k.Latest()
	}
}

// slimSlices returns how to get 2,500 slices of a hundred endpoints each, as the Reflector hands them over.
func slimSlices(t testing.TB, k *KubeSource) func() []any {
	transform := k.slices.Transformer()
	return func() (slim []any) {
		addresses := make([]string, 100)
		for i := range 2500 {
			for j := range addresses {
				addresses[j] = nth(100*i + j)
			}
			s, err := transform(kubeSlice("ns", fmt.Sprintf("service-%d-abcde", i), fmt.Sprintf("service-%d", i/10), addresses...))
			if err != nil {
				t.Fatal(err)
			}
			slim = append(slim, s)
		}
		return slim
	}
}

// Other nodes' endpoints are what an agent has most of.
func TestAnEndpointCostsAtMost128Bytes(t *testing.T) {
	const n = 250_000
	k := toldOf(t)
	k.Latest()
	before := heap()
	must(t, k.slices.Replace(slimSlices(t, k)(), "1"))
	s := k.Latest()
	if each := int64(heap()-before) / n; each > 128 {
		t.Errorf("%d bytes an endpoint", each)
	} else {
		t.Logf("%d bytes an endpoint, %d services", each, s.Services.Len())
	}
	runtime.KeepAlive(k)
	runtime.KeepAlive(s)
}
