package workerprotocol

import (
	"time"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// PathInfo is what the protocol tells of a valid path, but for the path itself
// (UnkeyedValidPathInfo in Nix).
type PathInfo struct {
	// Deriver is the derivation that made the path, or none.
	Deriver storepath.Path
	// NarHash is the SHA-256 of the path's archive.
	NarHash nixhash.Hash
	// References are in the order in which they were sent; nix-daemon sorts them.
	References []storepath.Path
	// RegistrationTime has a resolution of a second; the zero time is unknown.
	RegistrationTime time.Time
	// NarSize is the size of the archive in bytes; 0 is unknown.
	NarSize uint64
	// Ultimate tells that the path was built by the store that holds it.
	Ultimate bool
	// Signatures have the form "key:base64".
	Signatures []string
	// CA is set when the path is named by its contents.
	CA storepath.ContentAddress
}

func (i *PathInfo) code(c *coder) {
	c.optionalPath("deriver", &i.Deriver)
	c.hash("NAR hash", &i.NarHash)
	c.paths("references", &i.References)
	c.seconds("registration time", &i.RegistrationTime)
	c.uint64("NAR size", &i.NarSize)
	if c.since(16) {
		c.bool("ultimate flag", &i.Ultimate)
		c.stringList("signatures", &i.Signatures)
		c.contentAddress("content address", &i.CA)
	}
}

// ValidPathInfo is a path with its info.
type ValidPathInfo struct {
	Path storepath.Path
	PathInfo
}

func (i *ValidPathInfo) code(c *coder) {
	c.path("path", &i.Path)
	i.PathInfo.code(c)
}

// SubstitutableInfo is what a substituter tells of a path that it could give.
type SubstitutableInfo struct {
	// Deriver is none when it is not known.
	Deriver    storepath.Path
	References []storepath.Path
	// DownloadSize is the number of bytes to fetch; 0 is unknown.
	DownloadSize uint64
	// NarSize is the size of the archive; 0 is unknown.
	NarSize uint64
}

func (i *SubstitutableInfo) code(c *coder) {
	c.optionalPath("deriver", &i.Deriver)
	c.paths("references", &i.References)
	c.uint64("download size", &i.DownloadSize)
	c.uint64("NAR size", &i.NarSize)
}

// SubstitutablePathInfo is a path with what a substituter tells of it.
type SubstitutablePathInfo struct {
	Path storepath.Path
	SubstitutableInfo
}

func (i *SubstitutablePathInfo) code(c *coder) {
	c.path("path", &i.Path)
	i.SubstitutableInfo.code(c)
}

// PathWithCA is a path with the content address that names it, or none.
type PathWithCA struct {
	Path storepath.Path
	CA   storepath.ContentAddress
}

func (p *PathWithCA) code(c *coder) {
	c.path("path", &p.Path)
	c.contentAddress("content address", &p.CA)
}
