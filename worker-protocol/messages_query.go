package workerprotocol

import (
	"fmt"

	"github.com/tvixd/tvixd/storepath"
)

// EmptyRequest is a request without fields.
type EmptyRequest struct{}

func (*EmptyRequest) code(*coder) {}

// EmptyResponse is a response without fields.
type EmptyResponse struct{}

func (*EmptyResponse) code(*coder) {}

// AckResponse is a response without a meaning: the number 1.
type AckResponse struct{}

func (*AckResponse) code(c *coder) { c.obsolete("acknowledgement", 1) }

// PathRequest asks for something about one path, or to do something with it.
type PathRequest struct{ Path storepath.Path }

func (m *PathRequest) code(c *coder) { c.path("path", &m.Path) }

// PathsRequest asks for something about paths.
type PathsRequest struct{ Paths []storepath.Path }

func (m *PathsRequest) code(c *coder) { c.paths("paths", &m.Paths) }

// PathResponse is a path.
type PathResponse struct{ Path storepath.Path }

func (m *PathResponse) code(c *coder) { c.path("path", &m.Path) }

// OptionalPathResponse is a path or none.
type OptionalPathResponse struct{ Path storepath.Path }

func (m *OptionalPathResponse) code(c *coder) { c.optionalPath("path", &m.Path) }

// PathsResponse is a set of paths; nix-daemon sorts it.
type PathsResponse struct{ Paths []storepath.Path }

func (m *PathsResponse) code(c *coder) { c.paths("paths", &m.Paths) }

// NamesResponse is a set of output names; nix-daemon sorts it.
type NamesResponse struct{ Names []string }

func (m *NamesResponse) code(c *coder) { c.stringList("output names", &m.Names) }

// IsValidPathRequest asks whether a path is valid.
type IsValidPathRequest = PathRequest

// IsValidPathResponse answers it.
type IsValidPathResponse struct{ Valid bool }

func (m *IsValidPathResponse) code(c *coder) { c.bool("validity", &m.Valid) }

// QueryValidPathsRequest asks which of some paths are valid.
type QueryValidPathsRequest struct {
	Paths []storepath.Path
	// Substitute asks to fetch those that are missing first; since 1.27.
	Substitute bool
}

func (m *QueryValidPathsRequest) code(c *coder) {
	c.paths("paths", &m.Paths)
	if c.since(27) {
		c.bool("substitute flag", &m.Substitute)
	}
}

// QueryPathInfoResponse is what is known of a path, or nil when it is not valid.
type QueryPathInfoResponse struct{ Info *PathInfo }

func (m *QueryPathInfoResponse) code(c *coder) {
	if !c.optional("validity", m.Info != nil) {
		m.Info = nil
		return
	}
	if c.reading() {
		m.Info = &PathInfo{}
	}
	m.Info.code(c)
}

// QueryPathFromHashPartRequest asks for the valid path with a hash part.
type QueryPathFromHashPartRequest struct{ Digest [storepath.DigestSize]byte }

func (m *QueryPathFromHashPartRequest) code(c *coder) {
	s := ""
	if !c.reading() {
		s = hashPart(m.Digest)
	}
	c.string("hash part", &s)
	if c.reading() && c.r.err == nil {
		d, err := storepath.ParseHashPart(s)
		c.r.reject(err)
		m.Digest = d
	}
}

// hashPart writes a digest as the first part of a path.
func hashPart(digest [storepath.DigestSize]byte) string {
	p, err := storepath.New(digest, "x")
	if err != nil { // "x" is a good name
		panic(err)
	}
	return p.HashPart()
}

// QuerySubstitutablePathInfoResponse is what substituters know of a path, or nil for nothing.
type QuerySubstitutablePathInfoResponse struct{ Info *SubstitutableInfo }

func (m *QuerySubstitutablePathInfoResponse) code(c *coder) {
	if !c.optional("validity", m.Info != nil) {
		m.Info = nil
		return
	}
	if c.reading() {
		m.Info = &SubstitutableInfo{}
	}
	m.Info.code(c)
}

// QuerySubstitutablePathInfosRequest asks what substituters know of some paths. The content
// addresses are sent since 1.22.
type QuerySubstitutablePathInfosRequest struct{ Paths []PathWithCA }

func (m *QuerySubstitutablePathInfosRequest) code(c *coder) {
	list(c, "paths", &m.Paths, func(c *coder, p *PathWithCA) {
		if c.since(22) {
			p.code(c)
		} else {
			c.path("path", &p.Path)
		}
	})
}

// QuerySubstitutablePathInfosResponse has the paths that substituters know; nix-daemon sorts
// them.
type QuerySubstitutablePathInfosResponse struct{ Infos []SubstitutablePathInfo }

func (m *QuerySubstitutablePathInfosResponse) code(c *coder) {
	list(c, "path infos", &m.Infos, func(c *coder, i *SubstitutablePathInfo) { i.code(c) })
}

// QueryDerivationOutputMapResponse has a derivation's outputs; the path of one that is not known
// yet is none.
type QueryDerivationOutputMapResponse struct{ Outputs map[string]storepath.Path }

func (m *QueryDerivationOutputMapResponse) code(c *coder) {
	dict(c, "outputs", &m.Outputs, func(c *coder, p *storepath.Path) { c.optionalPath("output path", p) })
}

// QueryMissingRequest asks what would be done to get some targets.
type QueryMissingRequest struct{ Targets []DerivedPath }

func (m *QueryMissingRequest) check(p Protocol) error { return checkDerivedPaths(m.Targets, p) }

func (m *QueryMissingRequest) code(c *coder) { c.derivedPaths("targets", &m.Targets) }

// QueryMissingResponse answers it. nix-daemon sorts the paths.
type QueryMissingResponse struct {
	WillBuild, WillSubstitute, Unknown []storepath.Path
	DownloadSize, NarSize              uint64
}

func (m *QueryMissingResponse) code(c *coder) {
	c.paths("paths to build", &m.WillBuild)
	c.paths("paths to substitute", &m.WillSubstitute)
	c.paths("unknown paths", &m.Unknown)
	c.uint64("download size", &m.DownloadSize)
	c.uint64("NAR size", &m.NarSize)
}

// QueryRealisationRequest asks where an output is.
type QueryRealisationRequest struct{ ID DrvOutput }

func (m *QueryRealisationRequest) check(p Protocol) error { return m.ID.check(p) }

func (m *QueryRealisationRequest) code(c *coder) { m.ID.code(c) }

// QueryRealisationResponse answers it, with nil when it is not known. Of the ID only what the
// request had is needed. Before 1.31 and with FeatureRealisationWithPath the ID is not sent.
type QueryRealisationResponse struct{ Realisation *Realisation }

func (m *QueryRealisationResponse) code(c *coder) {
	if c.Features.Has(FeatureRealisationWithPath) {
		if !c.optional("realisation", m.Realisation != nil) {
			m.Realisation = nil
			return
		}
		if c.reading() {
			m.Realisation = &Realisation{}
		}
		m.Realisation.codeUnkeyed(c)
		return
	}
	var all []Realisation
	if !c.reading() && m.Realisation != nil {
		all = []Realisation{*m.Realisation}
	}
	list(c, "realisations", &all, func(c *coder, r *Realisation) {
		if c.since(31) {
			c.realisationJSON(r)
		} else {
			c.path("output path", &r.OutPath)
		}
	})
	if !c.reading() {
		return
	}
	m.Realisation = nil
	if len(all) > 1 {
		c.r.reject(fmt.Errorf("got %d realisations of one output", len(all)))
	} else if len(all) == 1 {
		m.Realisation = &all[0]
	}
}
