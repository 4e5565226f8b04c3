package pathinfo

import (
	"context"
	"iter"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/storepath"
)

// Service is a complete metadata service. All its methods may be called
// concurrently, and each sees one consistent state.
type Service interface {
	Reader
	Registry
	Relations
	Realisations
}

// Reader answers questions about single paths. The PathInfos that it returns
// belong to the caller.
type Reader interface {
	// Get returns the metadata of a path, or an error that wraps ErrNotFound.
	Get(ctx context.Context, path storepath.Path) (*PathInfo, error)

	// GetMany returns the metadata of those of paths that are valid. The
	// result has the order of paths, with nil in place of a path that is not
	// valid.
	GetMany(ctx context.Context, paths []storepath.Path) ([]*PathInfo, error)

	// GetByHashPart returns the metadata of the path with this digest, whatever
	// its name, or an error that wraps ErrNotFound.
	GetByHashPart(ctx context.Context, digest [20]byte) (*PathInfo, error)

	// Root returns the content of a path, or an error that wraps ErrNotFound.
	// It is cheaper than Get.
	Root(ctx context.Context, path storepath.Path) (castore.Node, error)

	// Valid returns those of paths that are valid, in the order of paths.
	Valid(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error)

	// All yields the metadata of every valid path, sorted by path. It may see
	// changes that are made while it runs, or not see them. It stops after the
	// first error.
	All(ctx context.Context) iter.Seq2[*PathInfo, error]

	// Paths returns all valid paths, sorted.
	Paths(ctx context.Context) ([]storepath.Path, error)
}

// Registry changes what is valid. When one of its methods returns nil, the
// change is committed: a process that is killed afterwards finds it again.
type Registry interface {
	// Register makes paths valid, all of them or, if it fails, none. Each
	// reference must be valid already or be among infos, else the error is an
	// *InvalidReferenceError; a cycle among infos gives a *CycleError.
	//
	// A path that is valid already keeps its metadata, except that the new
	// signatures are added, Ultimate is set if either has it, and an unknown
	// Deriver or CA is filled in. One path may occur several times in infos;
	// the occurrences count as registered one after another. A signature must
	// not contain a line end.
	Register(ctx context.Context, infos []PathInfo) error

	// Replace is Register for paths whose contents were mended: those that
	// are valid take over all of the new metadata, apart from the
	// registration time and with signatures merged. What refers to such a
	// path must not become a reference of it (*CycleError).
	Replace(ctx context.Context, infos []PathInfo) error

	// Delete makes paths invalid, all of them or, if it fails, none. Paths
	// that are not valid are passed over. If a path outside the set refers to
	// one inside it, the error is an *InUseError. Realisations of deleted
	// paths go too.
	Delete(ctx context.Context, paths []storepath.Path) error

	// AddSignatures adds signatures to a valid path; the error wraps
	// ErrNotFound if it is not valid.
	AddSignatures(ctx context.Context, path storepath.Path, signatures []string) error

	// SetDrvOutputs replaces the output paths of a valid derivation, by output
	// name; the error wraps ErrNotFound if drv is not valid.
	SetDrvOutputs(ctx context.Context, drv storepath.Path, outputs map[string]storepath.Path) error

	// Touch notes that paths were used at a time. Paths that are not valid are
	// passed over, and a last use never moves back.
	Touch(ctx context.Context, paths []storepath.Path, at time.Time) error
}

// Relations answers questions about how paths hang together.
type Relations interface {
	// Graph returns the whole reference graph, one element for each valid
	// path, sorted by path, from one consistent state. The elements may share
	// memory and must not be changed.
	Graph(ctx context.Context) ([]PathRefs, error)

	// References returns the references of each of paths, in their order and
	// sorted each; a path that is not valid has none.
	References(ctx context.Context, paths []storepath.Path) ([][]storepath.Path, error)

	// Referrers returns the valid paths that refer to path, sorted, path
	// itself included if it does.
	Referrers(ctx context.Context, path storepath.Path) ([]storepath.Path, error)

	// Closure returns those of paths that are valid and all that they reach
	// by references, or with reverse by referrers, sorted.
	Closure(ctx context.Context, paths []storepath.Path, reverse bool) ([]storepath.Path, error)

	// Derivers returns the valid derivations that have output among their
	// outputs, sorted.
	Derivers(ctx context.Context, output storepath.Path) ([]storepath.Path, error)

	// DrvOutputs returns the known outputs of a valid derivation by name, or
	// an error that wraps ErrNotFound.
	DrvOutputs(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error)

	// Roots yields the content of every valid path, in no particular order.
	// Contents may be yielded more than once. It stops after the first error.
	Roots(ctx context.Context) iter.Seq2[castore.Node, error]
}

// Realisations keeps what the outputs of content-addressed derivations were
// realised as.
type Realisations interface {
	// Realisation returns the realisation with this ID, or an error that
	// wraps ErrNotFound.
	Realisation(ctx context.Context, id string) (*Realisation, error)

	// PutRealisation stores a realisation. Its output path must be valid
	// (*InvalidReferenceError), and the realisations that it depends on must
	// be stored with the same output paths (*RealisationConflictError). A
	// stored realisation with the same ID and output path gets the new
	// signatures; one with another output path gives a
	// *RealisationConflictError.
	PutRealisation(ctx context.Context, r Realisation) error
}
