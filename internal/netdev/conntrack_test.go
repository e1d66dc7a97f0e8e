package netdev

import (
	"testing"

	"github.com/polder-net/polder/internal/testnet"
)

func TestConnectionTrackingIsThereOnceAskedFor(t *testing.T) {
	testnet.New(t).Do(func() {
		if err := LoadConntrack(); err != nil {
			t.Fatal(err)
		}
	})
}
