package gc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

func (c *Collector) autoDir() string { return filepath.Join(c.stateDir, "gcroots", "auto") }

// Prepare makes the folders that hold roots, as clients expect them.
func (c *Collector) Prepare() error {
	profiles := filepath.Join(c.stateDir, "profiles")
	roots := filepath.Join(c.stateDir, "gcroots")
	for _, dir := range []string{
		roots, c.autoDir(), filepath.Join(roots, "per-user"), filepath.Join(profiles, "per-user"),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the folders of roots: %w", err)
		}
	}
	// Nix's own layout: profiles are roots by this link too.
	if err := os.Symlink(profiles, filepath.Join(roots, "profiles")); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folders of roots: %w", err)
	}
	return nil
}

// CreateUser makes the folders in which a user of this machine keeps profiles
// and roots. Clients before Nix 2.14 rely on the daemon for that.
func (c *Collector) CreateUser(name string, uid int) error {
	if name == "" || name[0] == '.' || strings.ContainsRune(name, '/') {
		return fmt.Errorf("make the folders of user '%s': not a name for a folder", name)
	}
	for _, what := range []string{"profiles", "gcroots"} {
		dir := filepath.Join(c.stateDir, what, "per-user", name)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = os.Lchown(dir, uid, os.Getgid())
		}
		if err != nil {
			return fmt.Errorf("make the folders of user '%s': %w", name, err)
		}
	}
	return nil
}

// AddIndirectRoot makes the symlink at path, which is or will be outside of the
// store, a root for as long as it exists: whatever it leads to in the store is
// kept. A relative path is one from "/". Any path is taken; one that leads
// nowhere is forgotten at the next collection.
func (c *Collector) AddIndirectRoot(path string) error {
	path = filepath.Join("/", path)
	name := nixhash.Sum(nixhash.SHA1, []byte(path)).Nix32()
	if err := replaceLink(filepath.Join(c.autoDir(), name), path); err != nil {
		return fmt.Errorf("add the indirect root '%s': %w", path, err)
	}
	return nil
}

// AddPermRoot makes link a symlink to p and a root, and returns its cleaned
// path. Only clients that may write anywhere may ask for this; they hold a
// lease on p meanwhile.
func (c *Collector) AddPermRoot(p storepath.Path, link string) (string, error) {
	link = filepath.Join("/", link)
	if c.dir.Contains(link) {
		return "", fmt.Errorf("creating a garbage collector root ('%s') in the Nix store is forbidden "+
			"(are you running nix-build inside the store?)", link)
	}
	if _, err := os.Lstat(link); err == nil {
		// Only a link to the store may be replaced.
		if target, err := os.Readlink(link); err != nil || !c.dir.Contains(target) {
			return "", fmt.Errorf("cannot create symlink '%s'; already exists", link)
		}
	}
	if err := replaceLink(link, c.dir.Join(p)); err != nil {
		return "", fmt.Errorf("add the root '%s': %w", link, err)
	}
	return link, c.AddIndirectRoot(link)
}

// replaceLink makes link a symlink to target, and its folders, in one step that
// others see wholly or not at all.
func replaceLink(link, target string) error {
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	fresh := besides(link, "tmp")
	if err := os.Symlink(target, fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, link); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return nil
}

// removeStale removes an indirect root whose target does not exist. A client
// may make the target and the root anew in the same moment; so the link is
// taken aside, looked at again and, if it leads somewhere after all, put back.
func removeStale(link, target string) error {
	aside := besides(link, "stale")
	if err := os.Rename(link, aside); err != nil {
		return err
	}
	if _, err := os.Lstat(target); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, link, unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		// A newer one is in place.
	}
	return os.Remove(aside)
}

// besides is a new name in the folder of link.
func besides(link, what string) string {
	return link + "." + what + "-" + rand.Text()
}
