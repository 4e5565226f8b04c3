package workerprotocol

import (
	"errors"

	"github.com/tvixd/tvixd/storepath"
)

// AddIndirectRootRequest makes a link, anywhere in the file system, a root.
type AddIndirectRootRequest struct {
	// Link is the link's path as the client wrote it.
	Link string
}

func (m *AddIndirectRootRequest) code(c *coder) { c.string("link", &m.Link) }

// AddPermRootRequest makes a link to a path, as a root.
type AddPermRootRequest struct {
	Path storepath.Path
	// Root is where the link shall be, as the client wrote it.
	Root string
}

func (m *AddPermRootRequest) code(c *coder) {
	c.path("path", &m.Path)
	c.string("root", &m.Root)
}

// AddPermRootResponse tells where the link is.
type AddPermRootResponse struct{ Root string }

func (m *AddPermRootResponse) code(c *coder) { c.string("root", &m.Root) }

// Root is a link, or a description of what else keeps a path, with the path.
type Root struct {
	Link   string
	Target storepath.Path
}

// FindRootsResponse has all roots; nix-daemon sorts them by path and link.
type FindRootsResponse struct{ Roots []Root }

func (m *FindRootsResponse) code(c *coder) {
	list(c, "roots", &m.Roots, func(c *coder, r *Root) {
		c.string("link", &r.Link)
		c.path("target", &r.Target)
	})
}

// CollectGarbageRequest asks for a collection.
type CollectGarbageRequest struct {
	Action GCAction
	// WholeStore asks for all paths instead of Paths. Without FeatureDeleteDeadSpecificReferrers
	// it is not sent, but follows from Paths being empty and Action another than
	// GCDeleteSpecific.
	WholeStore bool
	Paths      []storepath.Path
	// DeleteReferrers asks to delete what refers to Paths, too. It needs the feature, as do
	// Paths with GCDeleteDead.
	DeleteReferrers bool
	IgnoreLiveness  bool
	// MaxFreed is the number of bytes after which to stop, or GCNoLimit.
	MaxFreed uint64
}

// errSpecificPaths says what nix-daemon says.
var errSpecificPaths = errors.New("garbage collecting specific paths requested but it is not supported by the negotiated protocol")

func (m *CollectGarbageRequest) check(p Protocol) error {
	if p.Features.Has(FeatureDeleteDeadSpecificReferrers) {
		return nil
	}
	if m.DeleteReferrers {
		return errNotExpressible("deletion of referrers", p, "the daemon is too old")
	}
	if m.Action == GCDeleteDead && len(m.Paths) > 0 {
		return errNotExpressible("collection of given paths", p, "the daemon is too old")
	}
	return nil
}

func (m *CollectGarbageRequest) code(c *coder) {
	enum(c, "GC action", &m.Action, gcActions)
	if c.Features.Has(FeatureDeleteDeadSpecificReferrers) {
		m.codePaths(c)
	} else {
		m.codeOldPaths(c)
	}
	c.bool("flag to ignore liveness", &m.IgnoreLiveness)
	c.uint64("limit of bytes", &m.MaxFreed)
	for range 3 {
		c.obsolete("obsolete field", 0)
	}
}

func (m *CollectGarbageRequest) codePaths(c *coder) {
	m.WholeStore = c.optional("whole store indicator", m.WholeStore)
	if m.WholeStore {
		return
	}
	c.paths("paths", &m.Paths)
	c.bool("flag to delete referrers", &m.DeleteReferrers)
}

func (m *CollectGarbageRequest) codeOldPaths(c *coder) {
	if !c.reading() && m.WholeStore {
		c.w.Uint64(0)
		return
	}
	c.paths("paths", &m.Paths)
	if !c.reading() {
		return
	}
	m.DeleteReferrers = false
	m.WholeStore = len(m.Paths) == 0 && m.Action != GCDeleteSpecific
	if m.Action == GCDeleteDead && !m.WholeStore {
		c.r.reject(errSpecificPaths)
	}
}

// CollectGarbageResponse tells what was found or deleted.
type CollectGarbageResponse struct {
	// Paths are full store paths, or other names in the store folder.
	Paths      []string
	BytesFreed uint64
}

func (m *CollectGarbageResponse) code(c *coder) {
	c.stringList("paths", &m.Paths)
	c.uint64("bytes freed", &m.BytesFreed)
	c.obsolete("obsolete field", 0)
}

// VerifyStoreRequest asks to check the store.
type VerifyStoreRequest struct {
	CheckContents bool
	Repair        bool
}

func (m *VerifyStoreRequest) code(c *coder) {
	c.bool("flag to check contents", &m.CheckContents)
	c.bool("repair flag", &m.Repair)
}

// VerifyStoreResponse tells whether errors remain.
type VerifyStoreResponse struct{ Errors bool }

func (m *VerifyStoreResponse) code(c *coder) { c.bool("errors", &m.Errors) }
