package disk

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/internal/sqldb"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// index is the part of the database that belongs to the packs.
type index struct {
	db *sqldb.DB
}

func openIndex(ctx context.Context, db *sqldb.DB) (*index, error) {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, "castore", files); err != nil {
		return nil, err
	}
	return &index{db}, nil
}

// location is where an object is.
type location struct {
	block uint64
	slot  uint32
	kind  Kind
	size  uint64 // of the object, or of the whole blob if the kind is recipe
	at    place
	holes bool // the block holds objects that were swept
	// mem holds the decoded object when it is not in a pack yet.
	mem []byte
}

const lookupSQL = `SELECT o.block, o.slot, o.size, b.kind, b.pack, b.offset, b.length, b.holes
	FROM castore_objects o JOIN castore_blocks b ON b.id = o.block WHERE o.digest = ?`

// lookup finds an object.
func (ix *index) lookup(ctx context.Context, d castore.Digest) (loc location, found bool, err error) {
	err = ix.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		loc, found, err = lookupTx(tx, d)
		return err
	})
	return loc, found, err
}

func lookupTx(tx *sqldb.Tx, d castore.Digest) (location, bool, error) {
	var loc location
	var kind int
	err := tx.QueryRow(lookupSQL, d[:]).Scan(&loc.block, &loc.slot, &loc.size, &kind,
		&loc.at.pack, &loc.at.offset, &loc.at.length, &loc.holes)
	if errors.Is(err, sqldb.ErrNoRows) {
		return location{}, false, nil
	}
	if err != nil {
		return location{}, false, fmt.Errorf("look up %v: %w", d, err)
	}
	loc.kind = Kind(kind)
	return loc, true, nil
}

const (
	insertPackSQL = `INSERT INTO castore_packs (id, size, salt, dead) VALUES (?, ?, ?, 0)
		ON CONFLICT (id) DO UPDATE SET size = max(size, excluded.size)`
	insertBlockSQL  = `INSERT INTO castore_blocks (id, pack, offset, length, raw, kind, holes) VALUES (?, ?, ?, ?, ?, ?, 0)`
	insertObjectSQL = `INSERT INTO castore_objects (digest, block, slot, size, recipe) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (digest) DO UPDATE SET block = excluded.block, slot = excluded.slot,
			size = excluded.size, recipe = excluded.recipe`
)

// insertPacks records the durable ends of packs.
func insertPacks(tx *sqldb.Tx, ends []packEnd) error {
	for _, p := range ends {
		if _, err := tx.Exec(insertPackSQL, p.id, p.end, p.salt[:]); err != nil {
			return err
		}
	}
	return nil
}

// insertBlocks records blocks and makes them the places of all their objects.
func insertBlocks(tx *sqldb.Tx, blocks []*pendingBlock) error {
	type row struct {
		*tableEntry
		block  uint64
		slot   int
		recipe bool
	}
	var rows []row
	for _, b := range blocks {
		if err := insertBlock(tx, b.id, b.kind, b.rawLen, b.at); err != nil {
			return err
		}
		if b.kind == KindPathInfo {
			continue // not an object: its key is the caller's affair
		}
		for slot := range b.table {
			rows = append(rows, row{&b.table[slot], b.id, slot, b.kind == KindRecipe})
		}
	}
	// In the order of the table's pages, each of which is then touched once.
	slices.SortFunc(rows, func(a, b row) int { return a.digest.Compare(b.digest) })
	for i := range rows {
		r := &rows[i]
		if _, err := tx.Exec(insertObjectSQL, r.digest[:], r.block, r.slot, r.length, r.recipe); err != nil {
			return err
		}
	}
	return nil
}

func insertBlock(tx *sqldb.Tx, id uint64, kind Kind, raw int, at place) error {
	_, err := tx.Exec(insertBlockSQL, id, at.pack, at.offset, at.length, raw, uint8(kind))
	if errors.Is(err, sqldb.ErrConstraint) {
		// Ids are never used twice.
		return fmt.Errorf("%w: castore block %d is there already", sqldb.ErrDamaged, id)
	}
	return err
}

// commit records a batch of durable blocks.
func (ix *index) commit(ctx context.Context, ends []packEnd, blocks []*pendingBlock) error {
	return ix.db.Write(ctx, func(tx *sqldb.Tx) error {
		if err := insertPacks(tx, ends); err != nil {
			return err
		}
		return insertBlocks(tx, blocks)
	})
}

// packRow is what the index knows of a pack.
type packRow struct {
	id   uint32
	size int64
	salt salt
	dead bool
}

func (ix *index) packs(ctx context.Context) ([]packRow, error) {
	var out []packRow
	err := ix.db.Read(ctx, func(tx *sqldb.Tx) error {
		rows := tx.Query("SELECT id, size, salt, dead FROM castore_packs ORDER BY id")
		defer rows.Close()
		for rows.Next() {
			var p packRow
			if err := rows.Scan(&p.id, &p.size, p.salt[:], &p.dead); err != nil {
				return err
			}
			out = append(out, p)
		}
		return rows.Err()
	})
	return out, err
}

// lastBlockID returns the highest id that was ever used; should the sequence be
// damaged, the highest in use.
func (ix *index) lastBlockID(ctx context.Context) (id uint64, err error) {
	err = ix.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(`SELECT max(
			coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = 'castore_blocks'), 0),
			coalesce((SELECT max(id) FROM castore_blocks), 0))`).Scan(&id)
	})
	return id, err
}

// deletePacks removes packs and their blocks. The rows of the objects in them
// stay behind, without effect, until purge.
func (ix *index) deletePacks(ctx context.Context, ids []uint32) error {
	if len(ids) == 0 {
		return nil
	}
	return ix.db.Reclaim(ctx, func(tx *sqldb.Tx) error {
		for _, id := range ids {
			if _, err := tx.Exec("DELETE FROM castore_blocks WHERE pack = ?", id); err != nil {
				return err
			}
			if _, err := tx.Exec("DELETE FROM castore_packs WHERE id = ?", id); err != nil {
				return err
			}
		}
		return nil
	})
}

// purgeStep is the number of rows that purge looks at in one transaction.
const purgeStep = 50_000

// purge deletes the rows of objects whose block is gone, and returns how many
// there were.
func (ix *index) purge(ctx context.Context) (purged uint64, err error) {
	var from []byte
	for done := false; !done; {
		err := ix.db.Reclaim(ctx, func(tx *sqldb.Tx) error {
			// Where this step ends: before the row purgeStep further on.
			var to []byte
			err := tx.QueryRow("SELECT digest FROM castore_objects WHERE digest >= ? ORDER BY digest LIMIT 1 OFFSET ?",
				lowest(from), purgeStep).Scan(&to)
			var res sqldb.Result
			switch {
			case errors.Is(err, sqldb.ErrNoRows):
				done = true
				res, err = tx.Exec(`DELETE FROM castore_objects WHERE digest >= ?
					AND block NOT IN (SELECT id FROM castore_blocks)`, lowest(from))
			case err == nil:
				res, err = tx.Exec(`DELETE FROM castore_objects WHERE digest >= ? AND digest < ?
					AND block NOT IN (SELECT id FROM castore_blocks)`, lowest(from), to)
			}
			purged += uint64(res.RowsAffected)
			from = to
			return err
		})
		if err != nil {
			return purged, err
		}
	}
	return purged, nil
}

// lowest makes nil, which would be NULL, a bound below every digest.
func lowest(from []byte) []byte {
	if from == nil {
		return []byte{}
	}
	return from
}

// objectRow is a row of the table of objects.
type objectRow struct {
	digest castore.Digest
	block  uint64
	size   uint64
	recipe bool
}

// scanStep is the number of rows that scan reads at a time.
const scanStep = 8192

// scan calls fn with all objects in the order of their digests, some at a time,
// and not as one snapshot: the log of the database must not grow meanwhile.
func (ix *index) scan(ctx context.Context, fn func([]objectRow) error) error {
	rowsOf := make([]objectRow, 0, scanStep)
	from := []byte{}
	for {
		rowsOf = rowsOf[:0]
		err := ix.db.Lookup(ctx, func(tx *sqldb.Tx) error {
			rows := tx.Query("SELECT digest, block, size, recipe FROM castore_objects WHERE digest > ? ORDER BY digest LIMIT ?",
				from, scanStep)
			defer rows.Close()
			for rows.Next() {
				var o objectRow
				if err := rows.Scan(o.digest[:], &o.block, &o.size, &o.recipe); err != nil {
					return err
				}
				rowsOf = append(rowsOf, o)
			}
			return rows.Err()
		})
		if err != nil {
			return fmt.Errorf("scan objects: %w", err)
		}
		if len(rowsOf) > 0 {
			last := rowsOf[len(rowsOf)-1].digest
			from = append(from[:0], last[:]...)
			if err := fn(rowsOf); err != nil {
				return err
			}
		}
		if len(rowsOf) < scanStep {
			return nil
		}
	}
}

// hasBlock tells whether a block is in the index.
func (ix *index) hasBlock(ctx context.Context, id uint64) (there bool, err error) {
	err = ix.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow("SELECT EXISTS (SELECT 1 FROM castore_blocks WHERE id = ?)", id).Scan(&there)
	})
	return there, err
}

// recipes returns the digests of all large blobs up to a block.
func (ix *index) recipes(ctx context.Context, boundary uint64) (digests []castore.Digest, err error) {
	err = ix.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		rows := tx.Query("SELECT digest FROM castore_objects WHERE recipe = 1 AND block <= ?", boundary)
		defer rows.Close()
		for rows.Next() {
			var d castore.Digest
			if err := rows.Scan(d[:]); err != nil {
				return err
			}
			digests = append(digests, d)
		}
		return rows.Err()
	})
	return digests, err
}

// blockRow is a row of the table of blocks, with what a sweep counts.
type blockRow struct {
	id     uint64
	offset int64
	length uint32
	raw    uint32
	live   uint32 // bytes of objects that are alive
	liveN  uint32 // their number
	deadN  uint32
	pack   uint32
	kind   Kind
}

// blocks returns the blocks up to an id, in the order of their ids; those of one
// pack only, in the order of their offsets, if pack is not 0.
func (ix *index) blocks(ctx context.Context, boundary uint64, pack uint32) (blocks []blockRow, err error) {
	query := "SELECT id, pack, offset, length, raw, kind FROM castore_blocks WHERE id <= ? ORDER BY id"
	args := []any{boundary}
	if pack != 0 {
		query = "SELECT id, pack, offset, length, raw, kind FROM castore_blocks WHERE id <= ? AND pack = ? ORDER BY offset"
		args = append(args, pack)
	}
	err = ix.db.Lookup(ctx, func(tx *sqldb.Tx) error {
		rows := tx.Query(query, args...)
		defer rows.Close()
		for rows.Next() {
			var b blockRow
			var kind uint32
			if err := rows.Scan(&b.id, &b.pack, &b.offset, &b.length, &b.raw, &kind); err != nil {
				return err
			}
			b.kind = Kind(kind)
			blocks = append(blocks, b)
		}
		return rows.Err()
	})
	return blocks, err
}
