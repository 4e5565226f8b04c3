package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tvixd/tvixd/castore"
	castorememory "github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/nar"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// damagedStore cannot read directories or blobs as long as it is told so.
type damagedStore struct {
	castore.Store
	directories atomic.Bool
	blobs       atomic.Bool
	size        uint64 // of blobs that are damaged; 0 is any
}

func (s *damagedStore) GetDirectory(ctx context.Context, d castore.Digest) (*castore.Directory, error) {
	if s.directories.Load() {
		return nil, fmt.Errorf("read directory: %w", castore.ErrCorrupt)
	}
	return s.Store.GetDirectory(ctx, d)
}

func (s *damagedStore) Open(ctx context.Context, d castore.Digest) (castore.Blob, error) {
	b, err := s.Store.Open(ctx, d)
	if err == nil && s.blobs.Load() && (s.size == 0 || b.Size() == s.size) {
		b.Close()
		return nil, fmt.Errorf("read blob: %w", castore.ErrCorrupt)
	}
	return b, err
}

// folderNAR is the archive of a folder with one file for each of contents.
func folderNAR(t *testing.T, contents ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	err := w.Header(nar.Header{Kind: nar.Directory})
	for i, c := range contents {
		if err == nil {
			err = w.Header(nar.Header{Name: fmt.Sprintf("f%d", i), Kind: nar.Regular, Size: uint64(len(c))})
		}
		if err == nil && c != "" {
			_, err = io.WriteString(w, c)
		}
	}
	if err == nil {
		err = w.Header(nar.Header{Kind: nar.EndDirectory})
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestNarFromDamagedPath checks that a client is told of damage that shows before the archive has
// begun, and may go on; later the connection can only be cut.
func TestNarFromDamagedPath(t *testing.T) {
	contents := &damagedStore{Store: castorememory.New()}
	d := newDaemon(t, setup{store: contents})
	c := d.dial(t, 0)
	file := addUnsigned(t, c, "file", "contents")
	folder, _ := item(t, "folder", "")
	archive := folderNAR(t, strings.Repeat("a", 300<<10), strings.Repeat("b", 300<<10+1))
	folder.NarHash, folder.NarSize = narHash(archive), uint64(len(archive))
	request := wp.AddToStoreNarRequest{Info: folder, DontCheckSigs: true}
	if err := c.AddToStoreNar(t.Context(), request, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}

	contents.directories.Store(true)
	contents.blobs.Store(true)
	var got bytes.Buffer
	wantError(t, "a damaged file", c.NarFromPath(t.Context(), file, &got),
		"read path '"+d.layout.Store.Join(file)+"': read blob: ")
	wantError(t, "a damaged folder", c.NarFromPath(t.Context(), folder.Path, &got),
		"read path '"+d.layout.Store.Join(folder.Path)+"': ")
	contents.directories.Store(false)
	wantError(t, "a folder with a damaged first file", c.NarFromPath(t.Context(), folder.Path, &got),
		"read path '"+d.layout.Store.Join(folder.Path)+"': ")
	if got.Len() > 0 {
		t.Errorf("%d bytes of damaged archives arrived", got.Len())
	}
	contents.blobs.Store(false)
	if err := c.NarFromPath(t.Context(), folder.Path, &got); err != nil || !bytes.Equal(got.Bytes(), archive) {
		t.Errorf("sound again: %v", err)
	}

	contents.size = 300<<10 + 1
	contents.blobs.Store(true)
	if err := c.NarFromPath(t.Context(), folder.Path, io.Discard); err == nil {
		t.Error("the archive of a damaged folder is complete")
	}
	d.waitForClients(t, 0)
	if log := d.log.String(); !strings.Contains(log, "an archive breaks off") || !strings.Contains(log, folder.Path.Base()) {
		t.Errorf("the log does not tell of it:\n%s", log)
	}
	contents.blobs.Store(false)
}

// TestUntrustedRepair checks that who is not trusted cannot replace what others use, where
// signatures are not required.
func TestUntrustedRepair(t *testing.T) {
	d := newDaemon(t, setup{trust: wp.NotTrusted, config: "require-sigs = false\n"})
	c := d.dial(t, 0)
	path := addUnsigned(t, c, "path", "contents")
	other, archive := item(t, "path", "other contents")
	if err := c.AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: other, Repair: true}, bytes.NewReader(archive)); err != nil {
		t.Errorf("repair: %v", err)
	}
	err := c.AddMultipleToStore(t.Context(), wp.AddMultipleToStoreRequest{Repair: true}, 1,
		func(yield func(wp.Item) bool) { yield(wp.Item{Info: other, NAR: bytes.NewReader(archive)}) })
	if err != nil {
		t.Errorf("repair of many: %v", err)
	}
	var got bytes.Buffer
	if err := c.NarFromPath(t.Context(), path, &got); err != nil || !bytes.Equal(got.Bytes(), fileNAR(t, "contents")) {
		t.Errorf("the contents were replaced: %q, %v", got.Bytes(), err)
	}
}
