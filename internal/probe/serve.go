package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
)

// workers is how many probes a prober has under way at once.
const workers = 16

// Serve is the life of a prober: it reads what a coordinator asks until the end of its input, and answers. find lists
// the network namespaces of this node's pods; their files are closed in the end.
func Serve(in io.Reader, out io.Writer, find func() ([]Namespace, error)) error {
	decoder, encoder := json.NewDecoder(in), json.NewEncoder(out)
	var first toProber
	if err := decoder.Decode(&first); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if first.Hello == nil {
		return errors.New("read greeting: there is none")
	}
	own, err := ownNetns()
	if err != nil {
		return refuse(encoder, err)
	}
	defer own.Close()
	pods, err := find()
	if err != nil {
		return refuse(encoder, fmt.Errorf("find pods: %w", err))
	}
	defer func() {
		for _, p := range pods {
			p.Netns.Close()
		}
	}()
	s := &station{node: first.Hello.Node}
	defer s.close()
	endpoints, err := s.open(own, unmapped(first.Hello.Addresses), pods)
	if err != nil {
		return refuse(encoder, err)
	}
	if err := encoder.Encode(fromProber{Ready: &ready{Endpoints: endpoints}}); err != nil {
		return fmt.Errorf("write to coordinator: %w", err)
	}
	return serveDials(decoder, encoder, own, pods)
}

// refuse tells the coordinator why there is no prober.
func refuse(encoder *json.Encoder, err error) error {
	return errors.Join(err, encoder.Encode(fromProber{Ready: &ready{Error: err.Error()}}))
}

func unmapped(addresses []netip.Addr) []netip.Addr {
	list := make([]netip.Addr, len(addresses))
	for i, a := range addresses {
		list[i] = a.Unmap()
	}
	return list
}

// serveDials carries dials out until there are no more.
func serveDials(decoder *json.Decoder, encoder *json.Encoder, own *os.File, pods []Namespace) error {
	jobs, results := make(chan dial), make(chan result)
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			err := away(func() {
				for d := range jobs {
					results <- d.from(own, pods)
				}
			})
			if err != nil { // no descriptors: there are others that work, or the coordinator gives up
				results <- result{ID: -1, Error: err.Error()}
			}
		})
	}
	written := make(chan error, 1)
	go func() {
		var first error
		for r := range results {
			// After an error the others are still taken, so that no worker waits for ever.
			if err := encoder.Encode(fromProber{Result: &r}); err != nil && first == nil {
				first = fmt.Errorf("write to coordinator: %w", err)
			}
		}
		written <- first
	}()
	err := readDials(decoder, jobs)
	close(jobs)
	working.Wait()
	close(results)
	return errors.Join(err, <-written)
}

func readDials(decoder *json.Decoder, jobs chan<- dial) error {
	for {
		var next toProber
		err := decoder.Decode(&next)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from coordinator: %w", err)
		}
		if next.Dial == nil {
			return errors.New("read from coordinator: no dial")
		}
		jobs <- *next.Dial
	}
}

// from carries a dial out in the namespace of the endpoint that it comes from.
func (d dial) from(own *os.File, pods []Namespace) result {
	var netns *os.File
	if d.From < 0 || d.From > len(pods) {
		return result{ID: d.ID, Error: fmt.Sprintf("no endpoint %d", d.From)}
	}
	if d.From > 0 {
		netns = pods[d.From-1].Netns
	}
	if err := enter(own, netns); err != nil {
		return result{ID: d.ID, Error: err.Error()}
	}
	return d.try()
}
