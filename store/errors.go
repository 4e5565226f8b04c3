package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// ErrUnsupportedFile is wrapped by the errors of IngestTree for a device, a
// pipe or a socket.
var ErrUnsupportedFile = errors.New("unsupported file type")

// ErrFileChanged is wrapped by the errors of IngestTree for a file or folder
// that changed while it was read.
var ErrFileChanged = errors.New("file changed while it was read")

// ErrMismatch is wrapped by the errors of adds whose contents are not what was
// claimed: hash, size or content address.
var ErrMismatch = errors.New("contents do not match the claim")

// ErrTooLarge is wrapped by the errors of ReadFile for a file over the limit.
var ErrTooLarge = errors.New("file too large")

// nixError has a text for clients and a cause for programs.
type nixError struct {
	msg   string
	cause error
}

func (e *nixError) Error() string { return e.msg }
func (e *nixError) Unwrap() error { return e.cause }

func (s *Store) errorf(cause error, format string, args ...any) error {
	return &nixError{msg: fmt.Sprintf(format, args...), cause: cause}
}

// notValid is nix-daemon's error for a path that is not valid; it wraps
// pathinfo.ErrNotFound.
func (s *Store) notValid(p storepath.Path) error {
	return s.errorf(pathinfo.NotFound(p), "path '%s' is not valid", s.dir.Join(p))
}

// explain gives the errors of the path info service the texts of nix-daemon.
func (s *Store) explain(err error) error {
	var (
		invalid *pathinfo.InvalidReferenceError
		inUse   *pathinfo.InUseError
		cycle   *pathinfo.CycleError
	)
	switch {
	case errors.As(err, &invalid):
		return s.errorf(err, "path '%s' is not valid", s.dir.Join(invalid.Reference))
	case errors.As(err, &inUse):
		return s.errorf(err, "cannot delete path '%s' because it is in use by '%s'",
			s.dir.Join(inUse.Path), s.dir.Join(inUse.Referrer))
	case errors.As(err, &cycle):
		return s.errorf(err, "cycle detected in the references of '%s' from '%s'",
			s.dir.Join(cycle.Path), s.dir.Join(cycle.Parent))
	}
	return err
}

func (s *Store) quoteList(paths []storepath.Path) string {
	quoted := make([]string, len(paths))
	for i, p := range paths {
		quoted[i] = "'" + s.dir.Join(p) + "'"
	}
	return strings.Join(quoted, ", ")
}
