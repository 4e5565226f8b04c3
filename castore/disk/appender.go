package disk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// place is where a record is.
type place struct {
	pack   uint32
	offset int64
	length int64
}

// appender writes records to the end of the active pack.
type appender struct {
	packs *packs
	limit int64 // size at which a pack is full

	// mu is the package's appendMu.
	mu     sync.Mutex
	active *writeFile            // nil: the next append starts a pack; guarded by mu
	dirty  map[uint32]*writeFile // appended to since the last sync; guarded by mu
	owed   map[uint32]packEnd    // durable ends that the index may not have; guarded by mu
	nextID uint32                // guarded by mu
	newDir bool                  // a pack was created since the last sync; guarded by mu
	// failed is set when the system could not make appended data durable.
	// What is lost then cannot be told, so nothing more is accepted. Guarded
	// by mu.
	failed error
}

// writeFile is a pack that is or was written to. Guarded by appender.mu.
type writeFile struct {
	id      uint32
	salt    salt
	f       *os.File
	end     int64 // where the next record goes
	started int64 // up to here writeback was asked for
}

func newAppender(ps *packs, limit int64) *appender {
	return &appender{
		packs:  ps,
		limit:  limit,
		dirty:  make(map[uint32]*writeFile),
		owed:   make(map[uint32]packEnd),
		nextID: 1,
	}
}

// writebackStep is how much is appended before the system is asked to begin
// with the writing, so that little is left to do at the synchronisation.
const writebackStep = 8 << 20

// append places a record, which must not be used otherwise, at the end of the
// active pack. After an error nothing was appended.
func (a *appender) append(rec []byte) (place, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failed != nil {
		return place{}, a.failed
	}
	if a.active != nil && a.active.end+int64(len(rec)) > a.limit && a.active.end > packHeaderSize {
		a.detach()
	}
	if a.active == nil {
		if err := a.startPack(); err != nil {
			return place{}, fmt.Errorf("start pack: %w", err)
		}
	}
	w := a.active
	placeRecord(rec, w.salt, w.end)
	if _, err := w.f.WriteAt(rec, w.end); err != nil {
		// Leave no torn record; if that fails too, the next append writes
		// over it, and a scan ends before it.
		w.f.Truncate(w.end)
		return place{}, fmt.Errorf("append to pack %06d: %w", w.id, err)
	}
	at := place{pack: w.id, offset: w.end, length: int64(len(rec))}
	w.end += at.length
	a.dirty[w.id] = w
	if w.end-w.started >= writebackStep {
		unix.SyncFileRange(int(w.f.Fd()), w.started, w.end-w.started, unix.SYNC_FILE_RANGE_WRITE)
		w.started = w.end
	}
	return at, nil
}

// detach ends the active pack. The caller holds mu.
func (a *appender) detach() {
	w := a.active
	a.active = nil
	if w != nil && a.dirty[w.id] == nil {
		w.f.Close() // otherwise sync does
	}
}

// retire ends the active pack if it is the given one and the index knows all of
// it; it tells whether nothing will be added to the pack any more.
func (a *appender) retire(id uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, owed := a.owed[id]; owed || a.dirty[id] != nil {
		return false
	}
	if a.active != nil && a.active.id == id {
		a.detach()
	}
	return true
}

// startPack makes a new active pack. The caller holds mu.
func (a *appender) startPack() error {
	var s salt
	rand.Read(s[:])
	f, err := os.OpenFile(a.packs.path(a.nextID), os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	for errors.Is(err, os.ErrExist) {
		// Something that is no pack has the name.
		a.nextID++
		f, err = os.OpenFile(a.packs.path(a.nextID), os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	}
	if err != nil {
		return err
	}
	id, path := a.nextID, f.Name()
	if err = f.Chmod(fileMode); err == nil {
		_, err = f.WriteAt(encodePackHeader(id, s), 0)
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return err
	}
	a.packs.add(id, s)
	a.nextID++
	a.newDir = true
	a.active = &writeFile{id: id, salt: s, f: f, end: packHeaderSize}
	return nil
}

// resume continues a pack at its end.
func (a *appender) resume(id uint32, s salt, end int64) error {
	f, err := os.OpenFile(a.packs.path(id), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.active = &writeFile{id: id, salt: s, f: f, end: end, started: end}
	return nil
}

// packEnd is the durable length of a pack.
type packEnd struct {
	id   uint32
	salt salt
	end  int64
}

// sync makes everything appended before the call durable and returns the ends of
// packs that the index must learn, until settle says that it has. Only one sync
// may run at a time.
func (a *appender) sync() ([]packEnd, error) {
	a.mu.Lock()
	if a.failed != nil {
		defer a.mu.Unlock()
		return nil, a.failed
	}
	files := make(map[*writeFile]packEnd, len(a.dirty))
	for _, w := range a.dirty {
		files[w] = packEnd{w.id, w.salt, w.end}
	}
	newDir := a.newDir
	a.newDir = false
	a.mu.Unlock()

	var failed error
	if newDir {
		failed = syncDir(a.packs.dir)
	}
	for w := range files {
		if err := unix.Fdatasync(int(w.f.Fd())); err != nil && failed == nil {
			failed = fmt.Errorf("pack %06d: %w", w.id, err)
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	if failed != nil {
		a.failed = fmt.Errorf("make packs durable: %w", failed)
		return nil, a.failed
	}
	for w, end := range files {
		a.owed[w.id] = end
		if w.end != end.end {
			continue // appended to meanwhile
		}
		delete(a.dirty, w.id)
		if w != a.active {
			w.f.Close()
		}
	}
	return slices.Collect(maps.Values(a.owed)), nil
}

// settle takes note that the index knows the ends of packs.
func (a *appender) settle(ends []packEnd) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, end := range ends {
		if a.owed[end.id] == end {
			delete(a.owed, end.id)
		}
	}
}

// close ends the active pack without a sync.
func (a *appender) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, w := range a.dirty {
		delete(a.dirty, id)
		if w != a.active {
			w.f.Close()
		}
	}
	if a.active != nil {
		a.active.f.Close()
		a.active = nil
	}
}
