package disk

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/castoretest"
	"github.com/tvixd/tvixd/internal/sqldb"
)

// openTest opens the store in a folder. Closing it closes its database.
func openTest(tb testing.TB, dir string, change func(*Options)) *testStore {
	tb.Helper()
	s, err := tryOpen(dir, change)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func tryOpen(dir string, change func(*Options)) (*testStore, error) {
	return tryOpenDB(dir, func(o *sqldb.Options) { o.ReserveBytes = -1 }, change)
}

func tryOpenDB(dir string, changeDB func(*sqldb.Options), change func(*Options)) (*testStore, error) {
	var dbOpts sqldb.Options
	changeDB(&dbOpts)
	db, err := sqldb.Open(filepath.Join(dir, "db.sqlite"), dbOpts)
	if err != nil {
		return nil, err
	}
	opts := Options{Dir: dir, DB: db, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&opts)
	}
	s, err := Open(context.Background(), opts)
	if err != nil {
		db.Close()
		return nil, err
	}
	return &testStore{s, opts}, nil
}

// testStore is a store that owns its database.
type testStore struct {
	*Store
	options Options
}

func (s *testStore) Close() error {
	err := s.Store.Close()
	s.options.DB.Close()
	return err
}

// suiteOf makes the conformance suite for options.
func suiteOf(change func(*Options)) castoretest.Suite {
	return castoretest.Suite{
		New: func(tb testing.TB) castore.Store { return openTest(tb, tb.TempDir(), change) },
		Reopen: func(tb testing.TB, s castore.Store) castore.Store {
			if err := s.Close(); err != nil {
				tb.Fatal(err)
			}
			return openTest(tb, s.(*testStore).options.Dir, change)
		},
		Damage: func(tb testing.TB, s castore.Store, d castore.Digest) {
			hurt(tb, s.(*testStore), d)
		},
	}
}

func TestStore(t *testing.T) { castoretest.Run(t, suiteOf(nil)) }

// TestSmallPacks runs the suite without compression, and with packs so small and
// so little memory that every test meets many packs, rotation, compaction and
// cache misses.
func TestSmallPacks(t *testing.T) {
	castoretest.Run(t, suiteOf(func(o *Options) {
		o.PackBytes = 300 << 10
		o.CacheBytes = 1
		o.Workers = 3
		o.Compression = CompressNone
	}))
}

// hurt changes a byte in the payload of the record that holds an object.
func hurt(tb testing.TB, s *testStore, d castore.Digest) {
	tb.Helper()
	if err := s.Sync(context.Background()); err != nil {
		tb.Fatal(err)
	}
	loc, found, err := s.index.lookup(context.Background(), d)
	if err != nil || !found {
		tb.Fatalf("object to damage: %v, %v", found, err)
	}
	flip(tb, s.packs.path(loc.at.pack), loc.at.offset+loc.at.length-1)
	s.cache.drop(loc.block)
}

// TestModes makes and opens stores under several umasks; modes that allow too much
// are mended.
func TestModes(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		old := syscall.Umask(umask)
		defer syscall.Umask(old)
		dir := t.TempDir()
		must(t, os.Chmod(dir, 0o755))
		for range 2 {
			s := openTest(t, dir, nil)
			mustPut(t, s, []byte("x"))
			mustSync(t, s)
			for name, want := range map[string]os.FileMode{
				"": os.ModeDir | dirMode, "packs": os.ModeDir | dirMode, "packs/000001.pack": fileMode, generationFile: fileMode,
			} {
				fi, err := os.Stat(filepath.Join(dir, name))
				must(t, err)
				if fi.Mode() != want {
					t.Errorf("umask %03o: %q has mode %v, want %v", umask, name, fi.Mode(), want)
				}
			}
			must(t, s.Close())
			must(t, os.Chmod(dir, 0o755))
			must(t, os.Chmod(filepath.Join(dir, "packs"), 0o777))
			must(t, os.Chmod(filepath.Join(dir, "packs/000001.pack"), 0o644))
			must(t, os.Chmod(filepath.Join(dir, generationFile), 0o666))
		}
	}
}
