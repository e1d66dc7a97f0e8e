package objects

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/internal/cluster"
)

func TestEveryServiceAndEndpointHasAnAddressOfItsOwn(t *testing.T) {
	seen := map[netip.Addr]bool{}
	note := func(a netip.Addr) {
		if seen[a] {
			t.Fatalf("%s is there twice", a)
		}
		seen[a] = true
	}
	c := Content{Size: Size{Services: 5000, Endpoints: 50}}
	for i := range c.Size.Services {
		note(c.ClusterIP(i))
		for e := range c.Endpoints {
			note(c.Endpoint(i, e).Addr())
		}
	}
	if last := (Content{}).ClusterIP(44000 - 1); !netip.MustParsePrefix("10.96.0.0/12").Contains(last) {
		t.Errorf("the last cluster IP is %s", last)
	}
}

func TestTheAPIServerTellsWhatIsInMemory(t *testing.T) {
	for _, c := range []Content{
		{Size: Size{Services: 3, Endpoints: 250}},
		{Size: Size{Services: 2, Endpoints: 3}, Live: netip.MustParseAddrPort("10.244.1.2:5201")},
	} {
		api := apiserver.New()
		c.Put(api)
		server := httptest.NewServer(api)
		var services struct{ Items []Service }
		var told struct{ Items []Slice }
		get(t, server.URL+"/api/v1/services", &services)
		get(t, server.URL+"/apis/discovery.k8s.io/v1/endpointslices", &told)
		server.Close()
		if len(services.Items) != c.Size.Services || len(c.Services()) != c.Size.Services {
			t.Errorf("%s: %d Services, and %d in memory", c.Size, len(services.Items), len(c.Services()))
		}
		for _, s := range told.Items {
			o := c.Services()[cluster.ServiceName{Namespace: s.Metadata.Namespace, Name: s.Metadata.Labels["kubernetes.io/service-name"]}]
			at := slices.IndexFunc(o.Slices, func(m *cluster.EndpointSlice) bool { return m.Name == s.Metadata.Name })
			if at < 0 || len(o.Slices[at].Endpoints) != len(s.Endpoints) || int(o.Slices[at].Ports[0].Port) != s.Ports[0].Port ||
				o.Slices[at].Endpoints[0].Addr.String() != s.Endpoints[0].Addresses[0] {
				t.Errorf("%s: slice %s is another in memory", c.Size, s.Metadata.Name)
			}
		}
	}
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}
