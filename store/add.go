package store

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// AddOptions change how a path is added.
type AddOptions struct {
	// Repair takes the contents in even if the path is valid: damaged
	// contents are healed, and the metadata is replaced.
	Repair bool

	// Keep gets the path when it is valid, before the add's own lease ends, so
	// that no collection can take it in between. Nil is none.
	Keep *Lease
}

// beginAdd leases path until end is called, and hands it to o.Keep then unless
// the add has failed.
func (s *Store) beginAdd(path storepath.Path, o AddOptions) (end func(err *error)) {
	lease := s.NewLease()
	lease.Add(path)
	return func(err *error) {
		if *err == nil && o.Keep != nil {
			o.Keep.Add(path)
		}
		lease.Release()
	}
}

// AddNAR adds a path from its NAR. The contents must have the NAR hash, size
// and content address that info claims, and the references of info must be
// valid; info.Root is found out. IngestNAR says how much is taken from r. A
// path that is valid already is not read: r is left alone, unless Repair.
//
// On return the path is durable and valid, see Register.
func (s *Store) AddNAR(ctx context.Context, info pathinfo.PathInfo, r io.Reader, o AddOptions) (err error) {
	info.Normalise()
	defer s.beginAdd(info.Path, o)(&err)
	if !o.Repair {
		valid, err := s.isValid(ctx, info.Path)
		if err != nil || valid {
			return err
		}
	}
	if err := s.checkClaim(&info); err != nil {
		return err
	}
	in, err := s.IngestNAR(ctx, r, IngestOptions{})
	if err != nil {
		return fmt.Errorf("error importing path '%s': %w", s.dir.Join(info.Path), err)
	}
	defer in.Release()
	if err := s.checkIngested(ctx, &info, in); err != nil {
		return err
	}
	info.Root = in.Root
	return s.commit(ctx, info, o.Repair)
}

func (s *Store) commit(ctx context.Context, info pathinfo.PathInfo, repair bool) error {
	infos := []pathinfo.PathInfo{info}
	if repair {
		return s.Replace(ctx, infos)
	}
	return s.Register(ctx, infos)
}

func (s *Store) isValid(ctx context.Context, path storepath.Path) (bool, error) {
	valid, err := s.infos.Valid(ctx, []storepath.Path{path})
	return len(valid) == 1, err
}

// checkClaim checks that a content address that info claims gives its path.
func (s *Store) checkClaim(info *pathinfo.PathInfo) error {
	if info.CA.IsZero() || s.IsContentAddressed(info) {
		return nil
	}
	return s.errorf(ErrMismatch,
		"cannot add path '%s' to the Nix store because it claims to be content-addressed but isn't",
		s.dir.Join(info.Path))
}

// IsContentAddressed reports whether the path of info is the one that follows
// from its content address and references. It does not look at the contents.
func (s *Store) IsContentAddressed(info *pathinfo.PathInfo) bool {
	if info.CA.IsZero() {
		return false
	}
	path, err := s.dir.FromContentAddress(info.Path.Name(), info.CA, splitReferences(info.Path, info.References))
	return err == nil && path == info.Path
}

// splitReferences takes a reference to self out of refs.
func splitReferences(self storepath.Path, refs []storepath.Path) storepath.References {
	var r storepath.References
	for _, p := range refs {
		if p == self {
			r.Self = true
		} else {
			r.Others = append(r.Others, p)
		}
	}
	return r
}

// checkIngested compares contents with what info claims of them.
func (s *Store) checkIngested(ctx context.Context, info *pathinfo.PathInfo, in *Ingested) error {
	if in.NarHash != info.NarHash {
		return s.errorf(ErrMismatch, "hash mismatch importing path '%s';\n  specified: %s\n  got:       %s",
			s.dir.Join(info.Path), info.NarHash, in.NarHash)
	}
	if in.NarSize != info.NarSize {
		return s.sizeMismatch(info, in.NarSize)
	}
	if info.CA.IsZero() {
		return nil
	}
	return s.checkContentAddress(ctx, info, in)
}

func (s *Store) sizeMismatch(info *pathinfo.PathInfo, got any) error {
	return s.errorf(ErrMismatch, "size mismatch importing path '%s';\n  specified: %d\n  got:       %v",
		s.dir.Join(info.Path), info.NarSize, got)
}

// checkContentAddress compares contents with info's content address.
func (s *Store) checkContentAddress(ctx context.Context, info *pathinfo.PathInfo, in *Ingested) error {
	self := storepath.Path{}
	if info.HasReference(info.Path) {
		self = info.Path
	}
	want := info.CA.Hash
	got := in.NarHash
	if info.CA.Method != storepath.NAR || want.Algo != nixhash.SHA256 || !self.IsZero() {
		sum, legacy, err := s.contentHash(ctx, in.Root, info.CA.Method, want.Algo, self)
		if err != nil {
			return fmt.Errorf("error importing path '%s': %w", s.dir.Join(info.Path), err)
		}
		if got = sum; legacy == want {
			got = legacy
		}
	}
	if got != want {
		return s.errorf(ErrMismatch, "ca hash mismatch importing path '%s';\n  specified: %s\n  got:       %s",
			s.dir.Join(info.Path), want, got)
	}
	return nil
}

// AddText adds a plain file with contents as a text, such as a derivation,
// and returns its path. On return it is durable and valid, see Register.
func (s *Store) AddText(
	ctx context.Context,
	name string,
	contents []byte,
	refs []storepath.Path,
	o AddOptions,
) (_ storepath.Path, err error) {
	info := pathinfo.PathInfo{
		References: storepath.SortUnique(append([]storepath.Path(nil), refs...)),
		CA:         storepath.ContentAddress{Method: storepath.Text, Hash: nixhash.Sum(nixhash.SHA256, contents)},
	}
	info.Path, err = s.dir.FromContentAddress(name, info.CA, storepath.References{Others: refs})
	if err != nil {
		return storepath.Path{}, err
	}
	defer s.beginAdd(info.Path, o)(&err)
	if !o.Repair {
		if valid, err := s.isValid(ctx, info.Path); valid || err != nil {
			return info.Path, err
		}
	}
	in, err := s.ingestBytes(ctx, contents, false)
	if err != nil {
		return storepath.Path{}, fmt.Errorf("add text '%s': %w", s.dir.Join(info.Path), err)
	}
	defer in.Release()
	info.Root, info.NarHash, info.NarSize = in.Root, in.NarHash, in.NarSize
	return info.Path, s.commit(ctx, info, o.Repair)
}

// AddCA adds contents under the path that follows from them, and returns what
// is known of it. What is read from r depends on the method: the file's bytes
// up to their end for Flat and Text, a NAR for NAR and Git (IngestNAR says how
// much is taken from r). On return the path is durable and valid.
func (s *Store) AddCA(
	ctx context.Context,
	name string,
	method storepath.Method,
	algo nixhash.Algo,
	refs []storepath.Path,
	r io.Reader,
	o AddOptions,
) (*pathinfo.PathInfo, error) {
	if method != storepath.Flat && method != storepath.Text {
		return s.AddCAFromNAR(ctx, name, method, algo, refs, r, o)
	}
	if err := checkCA(name, method, algo); err != nil {
		return nil, err
	}
	h := algo.New()
	in, err := s.ingestFlat(ctx, r, false, h)
	if err != nil {
		return nil, fmt.Errorf("add '%s': %w", name, err)
	}
	defer in.Release()
	return s.addIngested(ctx, name, caOf(method, algo, h), refs, in, o)
}

// AddCAFromNAR is AddCA with a NAR in r, whatever the method; for Flat and
// Text it must be that of a plain file.
func (s *Store) AddCAFromNAR(
	ctx context.Context,
	name string,
	method storepath.Method,
	algo nixhash.Algo,
	refs []storepath.Path,
	r io.Reader,
	o AddOptions,
) (*pathinfo.PathInfo, error) {
	if err := checkCA(name, method, algo); err != nil {
		return nil, err
	}
	in, err := s.IngestNAR(ctx, r, IngestOptions{})
	if err != nil {
		return nil, fmt.Errorf("add '%s': %w", name, err)
	}
	defer in.Release()
	h, err := s.ContentHash(ctx, in, method, algo)
	if err != nil {
		return nil, fmt.Errorf("add '%s': %w", name, err)
	}
	return s.addIngested(ctx, name, storepath.ContentAddress{Method: method, Hash: h}, refs, in, o)
}

// checkCA refuses before anything is read what cannot be added.
func checkCA(name string, method storepath.Method, algo nixhash.Algo) error {
	if algo.Size() == 0 {
		return fmt.Errorf("add '%s': unknown hash algorithm", name)
	}
	if method.String() == "" {
		return fmt.Errorf("add '%s': unknown content address method", name)
	}
	return storepath.CheckName(name)
}

func caOf(method storepath.Method, algo nixhash.Algo, h hash.Hash) storepath.ContentAddress {
	return storepath.ContentAddress{Method: method, Hash: nixhash.Finish(algo, h)}
}

// addIngested registers contents under the path that ca gives.
func (s *Store) addIngested(
	ctx context.Context,
	name string,
	ca storepath.ContentAddress,
	refs []storepath.Path,
	in *Ingested,
	o AddOptions,
) (_ *pathinfo.PathInfo, err error) {
	path, err := s.dir.FromContentAddress(name, ca, storepath.References{Others: refs})
	if err != nil {
		return nil, err
	}
	defer s.beginAdd(path, o)(&err)
	if !o.Repair {
		info, err := s.infos.Get(ctx, path)
		if !errors.Is(err, pathinfo.ErrNotFound) {
			return info, err
		}
	}
	info := pathinfo.PathInfo{
		Path:       path,
		Root:       in.Root,
		NarHash:    in.NarHash,
		NarSize:    in.NarSize,
		References: storepath.SortUnique(append([]storepath.Path(nil), refs...)),
		CA:         ca,
	}
	if err := s.commit(ctx, info, o.Repair); err != nil {
		return nil, err
	}
	return s.infos.Get(ctx, path)
}
