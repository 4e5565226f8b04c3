package memory_test

import (
	"testing"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/pathinfo/memory"
	"github.com/tvixd/tvixd/pathinfo/pathinfotest"
)

func newService(testing.TB) pathinfo.Service { return memory.New() }

func TestConformance(t *testing.T) { pathinfotest.Run(t, newService) }

func BenchmarkService(b *testing.B) { pathinfotest.Bench(b, newService) }
