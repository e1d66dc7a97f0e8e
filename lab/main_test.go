package lab_test

import (
	"os"
	"testing"

	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/lab/labtest"
)

// programs are shared by the tests of this package.
var programs labtest.Programs

func TestMain(m *testing.M) {
	if os.Getenv(inPlace) != "" {
		os.Exit(serveSockets())
	}
	testnet.Main(m, programs.Close)
}
