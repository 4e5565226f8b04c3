package fuse

import (
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tvixd/tvixd/castore"
)

// errPanicked is what others see of a fetch that ended in a panic.
var errPanicked = errors.New("fetch panicked")

const (
	estale   = gofuse.Status(syscall.ESTALE)
	enotconn = gofuse.Status(syscall.ENOTCONN)
)

// rootError translates an error of Roots.
func (f *fileSystem) rootError(name string, err error) gofuse.Status {
	if errors.Is(err, castore.ErrNotFound) {
		return gofuse.ENOENT
	}
	if f.ctx.Err() != nil {
		return enotconn
	}
	f.complain("look up root entry", err, slog.String("name", name))
	return gofuse.EIO
}

// contentError translates an error of the castore about a node: ESTALE if the
// node is of a path that was collected, else EIO. ESTALE also makes the kernel
// walk the path anew, so that who came by a path gets ENOENT.
func (f *fileSystem) contentError(n *node, err error) gofuse.Status {
	if f.ctx.Err() != nil {
		return enotconn
	}
	if errors.Is(err, castore.ErrNotFound) && f.collected(n) {
		return estale
	}
	f.complain("read "+n.kind.String(), err, slog.String("digest", n.digest.String()))
	return gofuse.EIO
}

// maxDepth ends the walk to the root if numbers were used anew on the way.
const maxDepth = 4096

// collected asks Roots whether the path, below which a node was looked up last,
// is still the same.
func (f *fileSystem) collected(n *node) bool {
	top := *n
	for depth := 0; top.parent != rootID; depth++ {
		parent, ok := f.nodes.get(top.parent)
		if !ok || depth > maxDepth {
			// The kernel came to the node on another way. If nothing was ever
			// removed, nothing can have been collected.
			return f.root.removals() > 0
		}
		top = parent
	}
	now, err := f.opts.Roots.Lookup(f.ctx, top.text)
	if err != nil {
		return errors.Is(err, castore.ErrNotFound)
	}
	return now.Kind != top.kind || now.Digest != top.digest
}

// complain logs what a reader sees only as EIO, at most a few times a second: a
// program that walks a damaged tree must not fill the log.
func (f *fileSystem) complain(what string, err error, attr slog.Attr) {
	suppressed, ok := f.complaints.admit(time.Now())
	if !ok {
		return
	}
	f.opts.Logger.Error(what+" failed", attr, slog.Any("error", err), slog.Int("suppressed", suppressed))
}

// throttle admits a number of events a second and counts the others.
type throttle struct {
	mu         sync.Mutex
	second     int64 // guarded by mu
	admitted   int   // in this second; guarded by mu
	suppressed int   // since the last one admitted; guarded by mu
}

const complaintsPerSecond = 5

func (t *throttle) admit(now time.Time) (suppressed int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := now.Unix(); s != t.second {
		t.second, t.admitted = s, 0
	}
	if t.admitted >= complaintsPerSecond {
		t.suppressed++
		return 0, false
	}
	t.admitted++
	suppressed, t.suppressed = t.suppressed, 0
	return suppressed, true
}
