package probe

import (
	"testing"

	"github.com/polder-net/polder/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }
