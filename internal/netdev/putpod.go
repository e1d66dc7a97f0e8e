package netdev

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/route"
)

// PutPod writes the rows of one new pod. It lists nothing: what it costs does not depend on how many pods, routes or
// neighbours there are.
func (k *Kernel) PutPod(routes map[route.RouteKey]route.Route, neighbours map[route.NeighbourKey]cluster.MAC) error {
	c, err := k.take()
	if err != nil {
		return err
	}
	defer k.give(c)
	messages, rows, err := c.podRows(routes, neighbours)
	if err != nil {
		return err
	}
	replies, err := c.batch(messages)
	if err != nil {
		return err
	}
	var errs errorList
	taken := false
	for i, r := range replies {
		if errors.Is(r.err, unix.EEXIST) {
			taken = true
		} else if r.err != nil {
			errs.add(fmt.Errorf("add %s: %w", rows[i], r.err))
		}
	}
	if taken {
		errs.add(k.replaceOwn(routes))
	}
	return errs.err()
}

// podRows are the requests for a pod's rows, and what each is, for people.
func (c *conn) podRows(routes map[route.RouteKey]route.Route, neighbours map[route.NeighbourKey]cluster.MAC) (
	messages []*message, rows []string, err error) {
	for key, r := range routes {
		id, spec := identify(key, r)
		index := 0
		if spec.link != "" {
			if index, err = c.indexOf(spec.link); err != nil {
				return nil, nil, fmt.Errorf("add route %s: %w", key.Prefix, err)
			}
		}
		messages = append(messages, putRoute(id, spec, index, unix.NLM_F_EXCL))
		rows = append(rows, "route "+id.describe(spec))
	}
	for key, mac := range neighbours {
		index, err := c.indexOf(key.Link)
		if err != nil {
			return nil, nil, fmt.Errorf("add neighbour %s: %w", key.Addr, err)
		}
		messages = append(messages, putNeighbour(index, key.Addr, mac))
		rows = append(rows, "neighbour "+describeNeighbour(key))
	}
	return messages, rows, nil
}

// replaceOwn puts routes in whose place there is one already: nothing is left to do where it is the same, it is
// replaced where it is Polder's, and an error where it is not. This path lists.
func (k *Kernel) replaceOwn(routes map[route.RouteKey]route.Route) error {
	n, err := k.names()
	if err != nil {
		return err
	}
	held, err := k.routes(n, 0, 0)
	if err != nil {
		return err
	}
	s := routeSync{k: k, names: n, held: held, others: held}
	var rows []routeChange
	for key, r := range routes {
		id, spec := identify(key, r)
		if h, ok := held[id]; !ok || h.protocol != Protocol || h.spec != spec {
			rows = append(rows, routeChange{Key: id, Row: spec})
		}
	}
	_, err = s.put(rows)
	return err
}
