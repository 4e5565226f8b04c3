package fuse

import (
	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tvixd/tvixd/castore"
)

// ReadDir lists names, numbers and kinds.
func (f *fileSystem) ReadDir(_ <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	return f.readDirectory(in, &dirWriter{f: f, out: out})
}

// ReadDirPlus lists entries as if each had been looked up.
func (f *fileSystem) ReadDirPlus(_ <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	return f.readDirectory(in, &dirWriter{f: f, out: out, plus: true})
}

func (f *fileSystem) readDirectory(in *gofuse.ReadIn, w *dirWriter) gofuse.Status {
	if in.NodeId == rootID {
		return f.readRoot(in.Offset, w)
	}
	n, dir, status := f.directory(in.NodeId)
	if status != gofuse.OK {
		return status
	}
	parentIno := uint64(rootID)
	if n.parent != rootID {
		if parent, ok := f.nodes.get(n.parent); ok {
			parentIno = parent.ino
		}
	}
	if !w.dots(in.Offset, n.ino, parentIno) {
		return gofuse.OK
	}
	// Entry number i has the offset i+3: the directory never changes.
	for i := max(in.Offset, offsetDotDot) - offsetDotDot; i < uint64(len(dir.Entries)); i++ {
		e := &dir.Entries[i]
		child := f.newNode(&e.Node, in.NodeId, n.ino, int(i), "")
		if !w.add(e.Name, &child, i+offsetDotDot+1) {
			break
		}
	}
	return gofuse.OK
}

func (f *fileSystem) readRoot(offset uint64, w *dirWriter) gofuse.Status {
	if !f.opts.ListRoot {
		return gofuse.EPERM
	}
	l, err := f.root.snapshot(f.ctx)
	if err != nil {
		return f.rootError("", err)
	}
	if !w.dots(offset, rootID, rootID) {
		return gofuse.OK
	}
	rest := l.after(max(offset, offsetDotDot))
	for len(rest) > 0 {
		// Entries that share an offset go out together: a listing that goes on
		// behind that offset would not show the second one.
		same := 1
		for same < len(rest) && rest[same].offset == rest[0].offset {
			same++
		}
		if !w.addRoot(rest[:same]) {
			return gofuse.OK
		}
		rest = rest[same:]
	}
	f.root.release(l)
	return gofuse.OK
}

// dirWriter fills the reply to READDIR or READDIRPLUS. Its methods return false
// when the reply is full.
type dirWriter struct {
	f    *fileSystem
	out  *gofuse.DirEntryList
	plus bool
}

func (w *dirWriter) dots(offset, self, parent uint64) bool {
	if offset < offsetDot && !w.dot(".", self, offsetDot) {
		return false
	}
	return offset >= offsetDotDot || w.dot("..", parent, offsetDotDot)
}

func (w *dirWriter) dot(name string, ino, offset uint64) bool {
	e := gofuse.DirEntry{Name: name, Ino: ino, Mode: gofuse.S_IFDIR, Off: offset}
	if w.plus {
		// Node number 0: the kernel takes no reference to these two.
		return w.out.AddDirLookupEntry(e) != nil
	}
	return w.out.AddDirEntry(e)
}

func (w *dirWriter) add(name string, n *node, offset uint64) bool {
	e := gofuse.DirEntry{Name: name, Ino: n.ino, Mode: modeOf(n), Off: offset}
	if !w.plus {
		return w.out.AddDirEntry(e)
	}
	entry := w.out.AddDirLookupEntry(e)
	if entry == nil {
		return false
	}
	w.f.fillEntry(entry, n)
	return true
}

// addRoot adds all entries of the root that share an offset, or none.
func (w *dirWriter) addRoot(entries []rootEntry) bool {
	if len(entries) > 1 && w.space() < len(entries)*maxEntrySize && len(w.out.Bytes()) > 0 {
		return false
	}
	for i := range entries {
		e := &entries[i]
		n := w.f.newNode(&e.Node, rootID, rootID, 0, e.Name)
		if !w.add(e.Name, &n, e.offset) {
			return false
		}
	}
	return true
}

// maxEntrySize is the most that an entry takes in a reply: an EntryOut, a dirent
// and a name, padded.
const maxEntrySize = 128 + 24 + castore.MaxNameLen + 1

func (w *dirWriter) space() int {
	b := w.out.Bytes()
	return cap(b) - len(b)
}
