package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/pathinfo/pathinfotest"
	"github.com/tvixd/tvixd/pathinfo/sqlite"
)

func open(t testing.TB, file string) (*sqlite.Service, *sqldb.DB) {
	t.Helper()
	db, err := sqldb.Open(file, sqldb.Options{ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.New(t.Context(), db, nil)
	if err != nil {
		db.Close()
		t.Fatal(err)
	}
	return s, db
}

func newService(t testing.TB) pathinfo.Service {
	t.Helper()
	s, db := open(t, filepath.Join(t.TempDir(), "db.sqlite"))
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) { pathinfotest.Run(t, newService) }

func BenchmarkService(b *testing.B) { pathinfotest.Bench(b, newService) }

func TestReopen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db.sqlite")
	s, db := open(t, file)
	if err := s.Register(t.Context(), []pathinfo.PathInfo{
		pathinfotest.Info(1), pathinfotest.Info(2, pathinfotest.Path(1)),
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, db = open(t, file)
	defer db.Close()
	info, err := s.Get(t.Context(), pathinfotest.Path(2))
	if err != nil {
		t.Fatal(err)
	}
	if !info.HasReference(pathinfotest.Path(1)) {
		t.Errorf("references %v", info.References)
	}
}
