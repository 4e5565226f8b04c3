package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/storepath"
)

// Layout is where the files lie that clients read past the socket.
type Layout struct {
	Store    storepath.Dir // NIX_STORE_DIR, /nix/store
	StateDir string        // NIX_STATE_DIR, /nix/var/nix: gcroots, profiles, temproots, db
	LogDir   string        // NIX_LOG_DIR, /nix/var/log/nix: drvs
	Socket   string        // NIX_DAEMON_SOCKET_PATH
}

// LayoutFromEnv is the layout that Nix's environment variables describe.
func LayoutFromEnv(getenv func(string) string) (Layout, error) {
	var l Layout
	folder := func(name, fallback string) (string, error) {
		value := getenv(name)
		if value == "" {
			return fallback, nil
		}
		if !filepath.IsAbs(value) {
			return "", fmt.Errorf("%s: not an absolute path: '%s'", name, value)
		}
		return filepath.Clean(value), nil
	}
	dir, err := folder("NIX_STORE_DIR", string(storepath.DefaultDir))
	if err != nil {
		return l, err
	}
	if l.Store, err = storepath.NewDir(dir); err != nil {
		return l, fmt.Errorf("NIX_STORE_DIR: %w", err)
	}
	if l.StateDir, err = folder("NIX_STATE_DIR", "/nix/var/nix"); err != nil {
		return l, err
	}
	if l.LogDir, err = folder("NIX_LOG_DIR", "/nix/var/log/nix"); err != nil {
		return l, err
	}
	l.Socket, err = folder("NIX_DAEMON_SOCKET_PATH", filepath.Join(l.StateDir, "daemon-socket", "socket"))
	return l, err
}

// Prepare makes what is missing of the state and log folders, apart from those of roots, which
// are the collector's, and the guard (see guard). The socket's folder is made where it lies in the
// state folder; elsewhere it may be a slip of somebody's hand. It is run by the one process that
// owns the store.
func (l Layout) Prepare(logger *slog.Logger) error {
	dirs := []string{
		filepath.Join(l.StateDir, "temproots"), filepath.Join(l.StateDir, "db"), filepath.Join(l.LogDir, "drvs"),
	}
	if dir := filepath.Dir(l.Socket); strings.HasPrefix(dir, l.StateDir+"/") {
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("prepare state folder: %w", err)
		}
	}
	return l.guard(logger)
}

// guardSchema is a number that no Nix supports. A nix of root that is not told to use the
// daemon opens the store itself, past every lock of ours; it reads this number first, and gives
// up with "current Nix store schema is version 1000000, but I only support 10".
const guardSchema = 1_000_000

// guard writes db/schema. The number of a database of Nix that lies there is kept beside it, in
// db/schema.nix, for the way back.
func (l Layout) guard(logger *slog.Logger) error {
	db := filepath.Join(l.StateDir, "db")
	file := filepath.Join(db, "schema")
	ours := strconv.Itoa(guardSchema)
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("guard state folder: %w", err)
	}
	if string(old) == ours {
		return nil
	}
	if len(old) > 0 {
		logger.Warn("the state folder has the database of another Nix store, which stays unused from now on",
			"database", filepath.Join(db, "db.sqlite"))
		if err := writeWhole(filepath.Join(db, "schema.nix"), string(old)); err != nil {
			return fmt.Errorf("guard state folder: %w", err)
		}
	}
	if err := writeWhole(file, ours); err != nil {
		return fmt.Errorf("guard state folder: %w", err)
	}
	return nil
}

// writeWhole writes a file that is never seen half-written.
func writeWhole(name, contents string) error {
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, []byte(contents), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// PrepareMountPoint makes the folder that the store is mounted on. A link on the way to it is
// refused, unless allowed: store paths would have two names.
func (l Layout) PrepareMountPoint(allowSymlinks bool) error {
	// A mount whose server has died cannot be looked at, but is found to exist.
	err := os.MkdirAll(string(l.Store), 0o755)
	if err != nil && !isDeadMount(err) && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the store folder: %w", err)
	}
	if allowSymlinks {
		return nil
	}
	for dir := string(l.Store); dir != "/"; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if err := unix.Lstat(dir, &st); isDeadMount(err) {
			continue
		} else if err != nil {
			return fmt.Errorf("look at the store folder: %w", &fs.PathError{Op: "lstat", Path: dir, Err: err})
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return fmt.Errorf("the path '%s' is a symlink; "+
				"this is not allowed for the Nix store and its parent directories", dir)
		}
	}
	return nil
}

// ErrNotEmpty means that a mount would hide what lies in the store folder.
var ErrNotEmpty = errors.New("the store folder is not empty")

// RequireEmpty is ErrNotEmpty if there is something below the mount point that a running system
// may live on. Folders of Nix's own that begin with a dot, such as .links, do not count, nor does
// a mount whose server has died.
func (l Layout) RequireEmpty() error {
	entries, err := os.ReadDir(string(l.Store))
	if err != nil {
		return fmt.Errorf("look at the store folder: %w", err)
	}
	count := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			count++
		}
	}
	if count > 0 {
		return fmt.Errorf("mount on '%s': %w: %d entries would be hidden", l.Store, ErrNotEmpty, count)
	}
	return nil
}

// RefuseInside is an error if path, with all links followed, lies in the store folder: what it
// names would vanish behind the mount.
func (l Layout) RefuseInside(what, path string) error {
	real, err := resolve(path)
	if err != nil {
		return fmt.Errorf("look at %s: %w", what, err)
	}
	dir, err := resolve(string(l.Store))
	if err != nil {
		return fmt.Errorf("look at the store folder: %w", err)
	}
	if real == dir || strings.HasPrefix(real, dir+"/") {
		return fmt.Errorf("%s '%s' lies in the store folder '%s', where the mount would hide it", what, path, l.Store)
	}
	return nil
}

// isDeadMount reports whether a call failed because a FUSE server is gone.
func isDeadMount(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// resolve follows links as far as the path exists and appends the rest.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if !errors.Is(err, fs.ErrNotExist) && !isDeadMount(err) || abs == "/" {
		return real, err
	}
	parent, err := resolve(filepath.Dir(abs))
	return filepath.Join(parent, filepath.Base(abs)), err
}
