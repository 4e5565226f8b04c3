package memory_test

import (
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/castoretest"
	"github.com/tvixd/tvixd/castore/memory"
)

var suite = castoretest.Suite{
	New: func(testing.TB) castore.Store { return memory.New() },
}

func TestStore(t *testing.T) { castoretest.Run(t, suite) }

func BenchmarkStore(b *testing.B) { castoretest.Bench(b, suite) }
