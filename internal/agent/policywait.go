package agent

import (
	"context"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
)

// How long ADD waits for a pod's policies, and how often it looks whether the caller is still there.
const (
	awaitPolicies = 5 * time.Second
	lookForCaller = 100 * time.Millisecond
)

// whenInForce answers an ADD once the pod's policies are in force, or after a while without: the pod is closed then, and
// opens up when they are known. Waiting is done outside the loop.
func (a *Agent) whenInForce(ctx context.Context, p cluster.LocalPod, resp api.Response) func() api.Response {
	at := func() api.Response { return resp }
	if a.policies.shut[p.Link] != unknown || resp.Error != nil {
		return at
	}
	done := make(chan bool, 1)
	a.policies.waiting[p.Link] = append(a.policies.waiting[p.Link], done)
	return func() api.Response {
		late := time.NewTimer(awaitPolicies)
		defer late.Stop()
		look := time.NewTicker(lookForCaller)
		defer look.Stop()
		for {
			select {
			case stays := <-done:
				if !stays {
					return refuse(api.CodeTryAgain, "the pod was deleted while its policies were waited for")
				}
				return resp
			case <-late.C:
				a.log.Warn("pod starts closed: its policies are not known yet", "ns", p.Namespace, "pod", p.Name, "waited", awaitPolicies)
				return resp
			case <-ctx.Done():
				return resp
			case <-look.C:
				if api.Gone(ctx) {
					return resp
				}
			}
		}
	}
}

// wake answers those whose pods' policies are in force, or whose pods have gone.
func (a *Agent) wake() {
	for link, list := range a.policies.waiting {
		_, stays := a.pods[link]
		if stays && a.policies.shut[link] == unknown {
			continue
		}
		for _, done := range list {
			done <- stays
		}
		delete(a.policies.waiting, link)
	}
}
