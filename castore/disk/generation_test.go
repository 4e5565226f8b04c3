package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/internal/sqldb"
)

// TestWrongDatabase opens packs with a database that is not theirs: it is refused,
// the packs stay as they are, and with the right one everything is there.
func TestWrongDatabase(t *testing.T) {
	tests := map[string]func(t *testing.T, db, older string){
		"deleted": func(t *testing.T, db, _ string) { must(t, os.Remove(db)) },
		"emptied": func(t *testing.T, db, _ string) { must(t, os.Truncate(db, 0)) },
		"older":   func(t *testing.T, db, older string) { copyFile(t, db, older) },
		"another's": func(t *testing.T, db, _ string) {
			dir := t.TempDir()
			s := openTest(t, dir, nil)
			mustPut(t, s, noise(1000, 9))
			must(t, s.Close())
			copyFile(t, db, filepath.Join(dir, "db.sqlite"))
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			db := filepath.Join(dir, "db.sqlite")
			var blobs [][]byte
			for i := range uint64(3) {
				s := openTest(t, dir, nil)
				blobs = append(blobs, noise(1000, i))
				mustPut(t, s, blobs[i])
				must(t, s.Close())
				if i == 1 {
					copyFile(t, db+".older", db)
				}
			}
			copyFile(t, db+".right", db)
			pack, opened := filepath.Join(dir, "packs", "000001.pack"), filepath.Join(dir, generationFile)
			before, number := mustReadFile(t, pack), mustReadFile(t, opened)
			spoil(t, db, db+".older")
			for range 2 {
				if _, err := tryOpen(dir, nil); !errors.Is(err, ErrNoIndex) {
					t.Fatalf("Open: %v, want ErrNoIndex", err)
				}
			}
			if string(mustReadFile(t, pack)) != string(before) || string(mustReadFile(t, opened)) != string(number) {
				t.Fatal("a refused open changes the store")
			}
			copyFile(t, db, db+".right")
			s := openTest(t, dir, nil)
			mustReadAll(t, s, blobs)
			must(t, s.Close())
		})
	}
}

// TestOlderDatabaseAccepted goes on with an old copy, as the error says one can.
func TestOlderDatabaseAccepted(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "db.sqlite")
	for i := range uint64(3) {
		s := openTest(t, dir, nil)
		mustPut(t, s, noise(1000, i))
		must(t, s.Close())
		if i == 0 {
			copyFile(t, db+".older", db)
		}
	}
	copyFile(t, db, db+".older")
	must(t, os.Remove(filepath.Join(dir, generationFile)))
	for range 2 {
		s := openTest(t, dir, nil)
		mustReadAll(t, s, [][]byte{noise(1000, 0), noise(1000, 1), noise(1000, 2)})
		must(t, s.Close())
	}
}

// TestFirstStartKilled opens what is left when the first process ends at any point
// before its first commit.
func TestFirstStartKilled(t *testing.T) {
	first := t.TempDir()
	s := openTest(t, first, nil)
	mustPut(t, s, noise(1000, 1))
	s.submit(s.sealForTest())
	s.awaitInflight() // appended, and not committed
	copyTo := func(names ...string) string {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "packs"), 0o700))
		for _, name := range names {
			copyFile(t, filepath.Join(dir, name), filepath.Join(first, name))
		}
		return dir
	}
	database := []string{"db.sqlite", "db.sqlite-wal"}
	for _, files := range [][]string{
		{}, database, append(database, generationFile), append(database, generationFile, "packs/000001.pack"),
	} {
		dir := copyTo(files...)
		s := openTest(t, dir, nil)
		mustPut(t, s, noise(1000, 2))
		must(t, s.Close())
		s = openTest(t, dir, nil)
		mustRead(t, s, noise(1000, 2))
		if len(files) == 4 {
			mustRead(t, s, noise(1000, 1))
		}
		must(t, s.Close())
	}
	dir := copyTo(append(database, "packs/000001.pack")...)
	must(t, os.WriteFile(filepath.Join(dir, generationFile), nil, 0o600)) // torn
	mustRead(t, openTest(t, dir, nil), noise(1000, 1))
}

func (s *Store) sealForTest() *pendingBlock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealOpen()
}

// TestBlockIDUsedTwice has a database that has forgotten which ids were used.
func TestBlockIDUsedTwice(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, nil)
	mustPut(t, s, noise(1000, 1))
	mustSync(t, s)
	s.mu.Lock()
	s.lastBlock = 0
	s.mu.Unlock()
	mustPut(t, s, noise(1000, 2))
	if err := s.Sync(context.Background()); !errors.Is(err, sqldb.ErrDamaged) {
		t.Fatalf("Sync: %v, want ErrDamaged", err)
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func mustReadFile(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	must(tb, err)
	return b
}
