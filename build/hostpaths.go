package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/build/sandbox"
)

// hostMount is a path of the host that an isolated builder sees.
type hostMount struct {
	sandbox.Mount
	setting string // as the setting has it
}

// mounts looks what the paths of the host are, and orders them so that each
// comes after those that it lies in. Of two with one target the last one counts.
func (a *attempt) mounts(paths []SandboxPath) ([]sandbox.Mount, error) {
	byTarget := make(map[string]*hostMount, len(paths))
	for _, p := range paths {
		if p.Source == "" || p.Source == "/proc" || a.inStore(p.Target) {
			continue // there already, or shown with the inputs
		}
		m, err := lookAt(p)
		if err != nil {
			return nil, err
		}
		if m != nil {
			byTarget[m.Target] = m
		}
	}
	all := make([]*hostMount, 0, len(byTarget))
	for _, m := range byTarget {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *hostMount) int { return strings.Compare(a.Target, b.Target) })
	mounts := make([]sandbox.Mount, 0, len(all))
	for _, m := range all {
		outer := outerMount(m.Target, byTarget)
		if outer == nil {
			mounts = append(mounts, m.Mount)
			continue
		}
		visible, err := m.within(outer)
		if err != nil {
			return nil, err
		}
		if !visible {
			m.Exists = true
			mounts = append(mounts, m.Mount)
		}
	}
	return mounts, nil
}

// lookAt finds out what a path of the host is; nil when it need not be there.
func lookAt(p SandboxPath) (*hostMount, error) {
	st, err := os.Lstat(p.Source)
	if errors.Is(err, fs.ErrNotExist) && p.Optional {
		return nil, nil
	}
	if err != nil {
		return nil, failf(MiscFailure, "getting attributes of path '%s': %s", p.Source, errnoName(errors.Unwrap(err)))
	}
	m := &hostMount{
		Mount:   sandbox.Mount{Target: path.Clean("/" + p.Target), Source: p.Source, Kind: sandbox.Regular},
		setting: p.Target,
	}
	if p.Source != p.Target {
		m.setting += "=" + p.Source
	}
	switch st.Mode().Type() {
	case fs.ModeDir:
		m.Kind = sandbox.Directory
	case fs.ModeSymlink:
		m.Kind = sandbox.Symlink
		if m.Link, err = os.Readlink(p.Source); err != nil {
			return nil, fmt.Errorf("read sandbox path: %w", err)
		}
	}
	return m, nil
}

// outerMount is the mount that a target lies in, or nil.
func outerMount(target string, byTarget map[string]*hostMount) *hostMount {
	for dir := path.Dir(target); dir != "/"; dir = path.Dir(dir) {
		if m := byTarget[dir]; m != nil {
			return m
		}
	}
	return nil
}

// within checks that a mount can be made inside another one. What is inside is
// the host's, where nothing may be made: so there must be something to mount
// on, on a way without links, which might lead anywhere. It reports whether
// the outer mount shows just this already.
func (m *hostMount) within(outer *hostMount) (visible bool, err error) {
	refuse := func(format string, args ...any) error {
		return failf(MiscFailure, "sandbox path '%s' lies in sandbox path '%s', but "+format,
			append([]any{m.setting, outer.setting}, args...)...)
	}
	switch outer.Kind {
	case sandbox.Symlink:
		return false, refuse("'%s' is a link to '%s'; name what it leads to instead", outer.Source, outer.Link)
	case sandbox.Regular:
		return false, refuse("'%s' is no folder", outer.Source)
	}
	at := outer.Source
	rest := strings.Split(strings.TrimPrefix(m.Target, outer.Target+"/"), "/")
	if filepath.Join(append([]string{at}, rest...)...) == filepath.Clean(m.Source) {
		return true, nil
	}
	var st fs.FileInfo
	for _, name := range rest {
		at = filepath.Join(at, name)
		if st, err = os.Lstat(at); err != nil {
			return false, refuse("'%s' cannot be mounted on (%s), and nothing is made in folders of this machine",
				at, errnoName(errors.Unwrap(err)))
		}
		if st.Mode().Type() == fs.ModeSymlink {
			return false, refuse("'%s' is a link, which cannot be mounted on", at)
		}
	}
	if m.Kind == sandbox.Symlink {
		return false, refuse("'%s' is a link, which would have to be made in a folder of this machine", m.Source)
	}
	if st.IsDir() != (m.Kind == sandbox.Directory) {
		return false, refuse("only one of '%s' and '%s' is a folder", m.Source, at)
	}
	return false, nil
}
