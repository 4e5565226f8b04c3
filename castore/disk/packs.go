package disk

import (
	"container/list"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// errPackGone says that a pack is not there any more: it was swept, or what was
// alive in it has moved.
var errPackGone = errors.New("pack is gone")

// packs are the pack files, opened for reading when they are needed and kept
// open, up to a limit.
type packs struct {
	dir string

	mu   sync.Mutex
	byID map[uint32]*pack // guarded by mu
	open *list.List       // of *pack with an open file, the last used in front; guarded by mu
}

// maxOpenPacks bounds the descriptors in use: a store of 1 TB has 2000 packs,
// and a process often 1024 descriptors.
const maxOpenPacks = 128

// pack is one pack file. Its fields but the first three are guarded by packs.mu.
type pack struct {
	id   uint32
	path string
	salt salt

	file *os.File
	elem *list.Element
	refs int
	gone bool
}

func newPacks(dir string) *packs {
	return &packs{dir: dir, byID: make(map[uint32]*pack), open: list.New()}
}

func (ps *packs) path(id uint32) string {
	return filepath.Join(ps.dir, fmt.Sprintf("%06d.pack", id))
}

// parsePackName returns the id in a file name.
func parsePackName(name string) (uint32, bool) {
	digits, ok := strings.CutSuffix(name, ".pack")
	if !ok || len(digits) < 6 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 10, 32)
	return uint32(id), err == nil && id > 0
}

// add makes a pack known.
func (ps *packs) add(id uint32, s salt) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.byID[id] = &pack{id: id, path: ps.path(id), salt: s}
}

// acquire returns a pack with an open file, to be released.
func (ps *packs) acquire(id uint32) (*pack, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byID[id]
	if p == nil {
		return nil, fmt.Errorf("pack %06d: %w", id, errPackGone)
	}
	if p.file == nil {
		// Opening a local file under the lock is brief, and rare.
		f, err := os.Open(p.path)
		if err != nil {
			return nil, fmt.Errorf("open pack: %w", err)
		}
		p.file = f
		p.elem = ps.open.PushFront(p)
		ps.closeIdle()
	} else {
		ps.open.MoveToFront(p.elem)
	}
	p.refs++
	return p, nil
}

func (ps *packs) release(p *pack) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p.refs--
	if p.gone && p.refs == 0 {
		ps.closeFile(p)
	}
}

// closeIdle closes the files that were not used for the longest time, above the
// limit. The newest is never closed: its user is about to take it.
func (ps *packs) closeIdle() {
	for e := ps.open.Back(); e != ps.open.Front() && ps.open.Len() > maxOpenPacks; {
		p := e.Value.(*pack)
		e = e.Prev()
		if p.refs == 0 {
			ps.closeFile(p)
		}
	}
}

func (ps *packs) closeFile(p *pack) {
	if p.file == nil {
		return
	}
	p.file.Close()
	p.file = nil
	ps.open.Remove(p.elem)
}

// remove forgets a pack and unlinks its file. Readers that are in it may finish.
// It returns the space that the file took.
func (ps *packs) remove(id uint32) (int64, error) {
	ps.mu.Lock()
	p := ps.byID[id]
	delete(ps.byID, id)
	if p != nil {
		p.gone = true
		if p.refs == 0 {
			ps.closeFile(p)
		}
	}
	ps.mu.Unlock()
	path := ps.path(id)
	fi, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, nil
		}
		return 0, fmt.Errorf("remove pack: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return 0, fmt.Errorf("remove pack: %w", err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return min(fi.Size(), st.Blocks*512), nil // there may be holes in it
	}
	return fi.Size(), nil
}

// readRecord reads the record at a place into a buffer for putBuf.
func (ps *packs) readRecord(at place) ([]byte, salt, error) {
	p, err := ps.acquire(at.pack)
	if err != nil {
		return nil, salt{}, err
	}
	defer ps.release(p)
	if at.length < recordHeaderSize || at.length > recordHeaderSize+maxEntries*entrySize+maxStored {
		return nil, salt{}, fmt.Errorf("pack %06d at %d: %w: length %d", at.pack, at.offset, errFormat, at.length)
	}
	buf := getBuf(int(at.length))
	if _, err := p.file.ReadAt(buf, at.offset); err != nil {
		putBuf(buf)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: pack ends early", errFormat)
		}
		return nil, salt{}, fmt.Errorf("pack %06d at %d: %w", at.pack, at.offset, err)
	}
	return buf, p.salt, nil
}

// has tells whether a pack is known.
func (ps *packs) has(id uint32) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.byID[id] != nil
}

func (ps *packs) ids() []uint32 {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ids := make([]uint32, 0, len(ps.byID))
	for id := range ps.byID {
		ids = append(ids, id)
	}
	return ids
}

func (ps *packs) closeAll() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.byID {
		ps.closeFile(p)
	}
	ps.byID = nil
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
