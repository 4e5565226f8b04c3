package disk

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tvixd/tvixd/internal/sqldb"
)

// ErrNoIndex is wrapped by the error of [Open] when there are packs with data, and
// the database does not know them: it was deleted, emptied, or is an older copy.
// To go on would be to lose, at the next sweep, what only the right database
// refers to.
var ErrNoIndex = errors.New("the database does not belong to the packs")

// generation says which store a database or a folder belongs to and how often it
// was opened. It is kept in both, the database first: a database with a lower
// generation than the folder is an old copy. No loss of power makes one, since
// both are durable before the store is used.
type generation struct {
	store  [16]byte
	number uint64
}

const generationFile = "generation"

// generationSize is the length of the file: two numbers in hexadecimal and a line
// end. It never changes, so that the file can be overwritten on a full disk.
const generationSize = 32 + 1 + 16 + 1

func (g generation) encode() []byte {
	return fmt.Appendf(nil, "%x %016x\n", g.store, g.number)
}

func decodeGeneration(b []byte) (g generation, err error) {
	if len(b) != generationSize || b[32] != ' ' || b[49] != '\n' {
		return g, errFormat
	}
	if _, err := hex.Decode(g.store[:], b[:32]); err != nil {
		return g, errFormat
	}
	var n [8]byte
	if _, err := hex.Decode(n[:], b[33:49]); err != nil {
		return g, errFormat
	}
	for _, c := range n {
		g.number = g.number<<8 | uint64(c)
	}
	return g, nil
}

// readGeneration returns what a folder says, or the zero generation.
func readGeneration(dir string) (generation, error) {
	b, err := os.ReadFile(filepath.Join(dir, generationFile))
	if errors.Is(err, os.ErrNotExist) {
		return generation{}, nil
	}
	if err != nil {
		return generation{}, err
	}
	g, err := decodeGeneration(b)
	if err != nil {
		// Written half, as the first process made it: nothing was stored then.
		return generation{}, nil
	}
	return g, nil
}

func writeGeneration(dir string, g generation) error {
	f, err := os.OpenFile(filepath.Join(dir, generationFile), os.O_WRONLY|os.O_CREATE, fileMode)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(g.encode(), 0); err != nil {
		return err
	}
	return errors.Join(f.Truncate(generationSize), f.Chmod(fileMode), f.Sync(), syncDir(dir))
}

func (ix *index) generation(ctx context.Context) (g generation, err error) {
	err = ix.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow("SELECT store, generation FROM castore_generation").Scan(g.store[:], &g.number)
	})
	if errors.Is(err, sqldb.ErrNoRows) {
		return generation{}, nil
	}
	return g, err
}

// setGeneration makes the generation of the database durable.
func (ix *index) setGeneration(ctx context.Context, g generation) error {
	err := ix.db.Reclaim(ctx, func(tx *sqldb.Tx) error {
		if _, err := tx.Exec("DELETE FROM castore_generation"); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO castore_generation VALUES (?, ?)", g.store[:], g.number)
		return err
	})
	if err != nil {
		return err
	}
	return ix.db.Flush()
}

// checkGeneration refuses a database that does not belong to the packs.
func (s *Store) checkGeneration(ctx context.Context) error {
	ours, err := readGeneration(s.opts.Dir)
	if err != nil {
		return err
	}
	known, err := s.index.generation(ctx)
	if err != nil {
		return err
	}
	has, err := hasRecords(s.opts.Dir)
	if err != nil || !has {
		return err
	}
	switch {
	case known == (generation{}):
		return noIndex(s.opts.Dir)
	case ours == (generation{}):
		// Somebody has removed the file, to accept the database as it is.
		return nil
	case ours.store != known.store:
		return noIndex(s.opts.Dir)
	case ours.number > known.number:
		return fmt.Errorf("%w: db.sqlite is an older copy. Put the newest one back; or, to go on with this one "+
			"and lose the paths that were added since, remove %s", ErrNoIndex, filepath.Join(s.opts.Dir, generationFile))
	}
	return nil
}

// noIndex is the error for packs without their database.
func noIndex(dir string) error {
	return fmt.Errorf("%w: %s has data, of which db.sqlite knows nothing (was it deleted, emptied or replaced?). "+
		"Put db.sqlite back from a copy, with no db.sqlite-wal but its own. Without one the contents can be indexed anew, but the paths cannot: "+
		"their metadata is in db.sqlite alone. To begin with an empty store, move that folder away",
		ErrNoIndex, filepath.Join(dir, "packs"))
}

// CheckIndex returns an error that wraps [ErrNoIndex] if there is data in the packs
// in dir; it is for callers who find that their database is missing, and are about
// to make a new one.
func CheckIndex(dir string) error {
	has, err := hasRecords(dir)
	if err == nil && has {
		err = noIndex(dir)
	}
	if err != nil {
		return fmt.Errorf("open castore %s: %w", dir, err)
	}
	return nil
}

// hasRecords tells whether any pack in the folder of a store has more than a
// header. A pack whose header is damaged does not count: without its database it
// is left alone.
func hasRecords(dir string) (bool, error) {
	dir = filepath.Join(dir, "packs")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		id, ok := parsePackName(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return false, err
		}
		head := make([]byte, packHeaderSize+1)
		n, _ := f.ReadAt(head, 0)
		f.Close()
		if n <= packHeaderSize {
			continue
		}
		if _, err := decodePackHeader(head[:packHeaderSize], id); err == nil {
			return true, nil
		}
	}
	return false, nil
}

// nextGeneration notes that the store is opened once more, before anything can
// be stored. On a full disk it stays as it was.
func (s *Store) nextGeneration(ctx context.Context) error {
	ours, err := readGeneration(s.opts.Dir)
	if err != nil {
		return err
	}
	g, err := s.index.generation(ctx)
	if err != nil {
		return err
	}
	if g == (generation{}) {
		rand.Read(g.store[:])
	}
	if ours.store == g.store {
		g.number = max(g.number, ours.number)
	}
	g.number++
	if err = s.index.setGeneration(ctx, g); err == nil {
		err = writeGeneration(s.opts.Dir, g)
	}
	if errors.Is(err, syscall.ENOSPC) && ours.store == g.store {
		s.log.Warn("disk is full; the opening of the store is not noted", "err", err)
		return nil
	}
	return err
}
