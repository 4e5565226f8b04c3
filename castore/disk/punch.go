package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// span is a part of a pack.
type span struct{ from, to int64 }

// punchAlign is the unit in which file systems give space back.
const punchAlign = 4096

// punchPack gives the space of what is dead in a pack back to the file system,
// where it lies: on a full disk there is no room to copy what lives. Headers and
// tables stay, so that a scan can still walk over the pack; of the payloads only
// whole pages go. It returns the bytes given back.
func (sw *sweep) punchPack(ctx context.Context, id uint32) (int64, error) {
	dead, err := sw.deadSpans(ctx, id)
	if err != nil || len(dead) == 0 {
		return 0, err
	}
	// What made them dead must not come back.
	if err := sw.index.db.Flush(); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(sw.packs.path(id), os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("punch pack %06d: %w", id, err)
	}
	defer f.Close()
	before, err := allocated(f)
	if err != nil {
		return 0, fmt.Errorf("punch pack %06d: %w", id, err)
	}
	sc, err := newScanner(f, id, nil)
	if err != nil {
		return 0, nil // its header is damaged: nothing in it can be told for sure
	}
	for _, d := range dead {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := sc.punch(d); err != nil {
			return 0, fmt.Errorf("punch pack %06d: %w", id, err)
		}
	}
	after, err := allocated(f)
	return max(before-after, 0), err
}

// deadSpans returns the parts of a pack that belong to no block, neither of the
// index nor on its way there.
func (sw *sweep) deadSpans(ctx context.Context, id uint32) ([]span, error) {
	// No synchronisation may be between a durable block and its index row.
	sw.syncMu.Lock()
	defer sw.syncMu.Unlock()
	rows, err := sw.index.packs(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(rows, func(r packRow) bool { return r.id == id })
	if i < 0 {
		return nil, nil
	}
	// Whatever is appended from here on comes after the committed end; what is
	// before it is in the index, or unsynced once its append has returned.
	sw.awaitInflight()
	alive, err := sw.index.blocks(ctx, math.MaxInt64, id)
	if err != nil {
		return nil, err
	}
	var taken []span
	for _, b := range alive {
		taken = append(taken, span{b.offset, b.offset + int64(b.length)})
	}
	sw.mu.Lock()
	for _, b := range sw.unsynced {
		if b.at.pack == id {
			taken = append(taken, span{b.at.offset, b.at.offset + b.at.length})
		}
	}
	sw.mu.Unlock()
	return gaps(taken, span{packHeaderSize, rows[i].size}), nil
}

// gaps returns the parts of whole that no span covers.
func gaps(taken []span, whole span) (free []span) {
	slices.SortFunc(taken, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	pos := whole.from
	for _, t := range taken {
		if t.from >= whole.to {
			break
		}
		if t.from > pos {
			free = append(free, span{pos, t.from})
		}
		pos = max(pos, t.to)
	}
	if pos < whole.to {
		free = append(free, span{pos, whole.to})
	}
	return free
}

// punch makes holes in the payloads of the records in a part of the pack, as far
// as they can be read.
func (sc *scanner) punch(d span) error {
	head := make([]byte, recordHeaderSize)
	for pos := d.from; pos < d.to; {
		if _, err := sc.f.ReadAt(head, pos); err != nil {
			return err
		}
		h, err := parseHeader(head, sc.salt, pos)
		if err != nil || pos+h.length() > d.to {
			return nil // damaged: not known where the next record begins
		}
		if from, to := h.hole(pos); from < to {
			err := unix.Fallocate(int(sc.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
			if errors.Is(err, unix.EOPNOTSUPP) {
				return nil // then only compaction gives space back
			}
			if err != nil {
				return &os.PathError{Op: "fallocate", Path: sc.f.Name(), Err: err}
			}
		}
		pos += h.length()
	}
	return nil
}

// hole returns the whole pages in the payload of a record at pos.
func (h *header) hole(pos int64) (from, to int64) {
	from = (pos + int64(h.tableEnd()) + punchAlign - 1) / punchAlign * punchAlign
	return from, (pos + h.length()) / punchAlign * punchAlign
}

// isPunched tells whether the pages in the payload of a record at pos, of which
// the checksum is wrong, are a hole made by a sweep.
func (h *header) isPunched(rec []byte, pos int64) bool {
	from, to := h.hole(pos)
	if from >= to {
		return false
	}
	for _, b := range rec[from-pos : to-pos] {
		if b != 0 {
			return false
		}
	}
	return true
}

// allocated is the space that a file takes, in bytes.
func allocated(f *os.File) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return st.Blocks * 512, nil
}
