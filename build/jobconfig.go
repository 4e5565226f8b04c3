package build

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/build/sandbox"
	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/storepath"
)

// What isolated builders see of themselves.
const (
	insideUID = 1000
	insideGID = 100
)

// config is the builder's sandbox. It also writes what belongs into the build
// folder.
func (a *attempt) config() (*sandbox.Config, error) {
	w := a.workspace
	c := &sandbox.Config{
		Isolated:           a.isolated,
		Builder:            a.drv.Builder,
		Dir:                w.build,
		StoreDir:           string(a.b.dir),
		Store:              a.b.hostStore,
		Upper:              w.path("store"),
		Root:               a.b.scratch.path("root"),
		Build:              w.build,
		Temp:               w.path("tmp"),
		ShmSize:            a.settings.SandboxShmSize,
		FilterSyscalls:     a.settings.FilterSyscalls,
		AllowNewPrivileges: a.settings.AllowNewPrivileges,
		Personality:        a.personality(),
	}
	if a.user != nil {
		c.User = a.user.User
	}
	if a.isolated {
		c.Dir = a.settings.SandboxBuildDir
		if c.Dir == "" {
			c.Dir = "/build"
		}
	}
	env, err := a.environment(c.Dir, a.closure)
	if err != nil {
		return nil, err
	}
	if err := a.writeFiles(env.files); err != nil {
		return nil, err
	}
	c.Args, c.Env = env.args, env.list()
	if a.isolated {
		return c, a.isolate(c)
	}
	c.World = w.world
	return c, a.hideOutputs()
}

// writeFiles puts files into the build folder, where nothing runs yet.
func (a *attempt) writeFiles(files map[string]string) error {
	for name, contents := range files {
		file := filepath.Join(a.workspace.build, name)
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return fmt.Errorf("write file for the builder: %w", err)
		}
		_, err = f.WriteString(contents)
		if err == nil && a.user != nil {
			err = f.Chown(int(a.user.UID), int(a.user.GID))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("write file for the builder: %w", err)
		}
	}
	return nil
}

// hideOutputs makes outputs that are valid already invisible to a builder that
// sees the whole store, so that it can make them.
func (a *attempt) hideOutputs() error {
	for name, out := range a.drv.Outputs {
		if a.missing[name] {
			continue
		}
		// A device 0:0 in the upper layer of an overlay is a hole.
		if err := unix.Mknodat(a.workspace.storeFD, out.Path.Base(), unix.S_IFCHR, 0); err != nil {
			return fmt.Errorf("hide output '%s' from the builder: %w", out.Path, err)
		}
	}
	return nil
}

// isolate says what an isolated builder sees.
func (a *attempt) isolate(c *sandbox.Config) error {
	uid, gid := c.User.UID, c.User.GID
	if sandbox.UserNamespaces() {
		c.UserNamespace, c.InsideUID, c.InsideGID = true, insideUID, insideGID
		uid, gid = insideUID, insideGID
	}
	c.MaxProcesses = maxProcesses()
	c.Network = a.drv.IsFixed()
	c.Files = []sandbox.File{
		{Name: "passwd", Contents: fmt.Sprintf("root:x:0:0:Nix build user:%[3]s:/noshell\n"+
			"nixbld:x:%[1]d:%[2]d:Nix build user:%[3]s:/noshell\n"+
			"nobody:x:65534:65534:Nobody:/:/noshell\n", uid, gid, c.Dir)},
		{Name: "group", Contents: fmt.Sprintf("root:x:0:\nnixbld:!:%d:\nnogroup:x:65534:\n", gid)},
	}
	for _, f := range a.settings.SystemFeatures {
		if f == "kvm" && exists("/dev/kvm") {
			c.KVM = true
		}
	}
	paths := slices.Clone(a.settings.SandboxPaths)
	etc := slices.ContainsFunc(paths, func(p SandboxPath) bool { return path.Clean("/"+p.Target) == "/etc" })
	if c.Network {
		c.Files = append(c.Files, sandbox.File{Name: "nsswitch.conf", Contents: "hosts: files dns\nservices: files\n"})
		for _, p := range []string{"/etc/resolv.conf", "/etc/services", "/etc/hosts"} {
			if etc {
				break // it has its own
			}
			if real, err := filepath.EvalSymlinks(p); err == nil {
				paths = append(paths, SandboxPath{Target: p, Source: real, Optional: true})
			}
		}
	} else {
		c.Files = append(c.Files, sandbox.File{Name: "hosts", Contents: "127.0.0.1 localhost\n::1 localhost\n"})
	}
	impure, err := a.impureHostDeps()
	if err != nil {
		return err
	}
	paths = append(paths, impure...)
	if c.Mounts, err = a.mounts(paths); err != nil {
		return err
	}
	if c.Inputs, err = a.inputPaths(paths); err != nil {
		return err
	}
	return a.workspace.expect(c.Inputs)
}

// impureHostDeps are paths of the host that the derivation asks for.
func (a *attempt) impureHostDeps() ([]SandboxPath, error) {
	deps, _, err := a.attrs.stringList("__impureHostDeps")
	if err != nil {
		return nil, err
	}
	var paths []SandboxPath
	for _, d := range deps {
		clean, allowed := path.Clean("/"+d), false
		for _, prefix := range a.settings.ImpureHostDeps {
			prefix = path.Clean("/" + prefix)
			allowed = allowed || clean == prefix || strings.HasPrefix(clean, strings.TrimSuffix(prefix, "/")+"/")
		}
		if !allowed {
			return nil, failf(InputRejected, "derivation '%s' requested impure path '%s', but it was not in "+
				"allowed-impure-host-deps", a.b.dir.Join(a.drvPath), d)
		}
		paths = append(paths, SandboxPath{Target: d, Source: d, Optional: true})
	}
	return paths, nil
}

func (a *attempt) inStore(p string) bool { return a.b.dir.Contains(path.Clean("/" + p)) }

// inputPaths are the store paths that the builder sees: its closure, and the
// closures of sandbox paths that lie in the store.
func (a *attempt) inputPaths(extra []SandboxPath) ([]sandbox.Input, error) {
	closure := a.closure
	var more []storepath.Path
	for _, p := range extra {
		if !a.inStore(p.Source) {
			continue
		}
		sp, _, err := a.b.dir.ParseInside(path.Clean("/" + p.Source))
		if err != nil {
			continue
		}
		valid, err := a.b.store.PathInfo().Valid(a.ctx, []storepath.Path{sp})
		if err != nil {
			return nil, err
		}
		more = append(more, valid...)
	}
	if len(more) > 0 {
		var err error
		if closure, err = a.job.closure(append(more, closure...)); err != nil {
			return nil, err
		}
		a.lease.Add(closure...)
	}
	own := make(map[storepath.Path]bool, len(a.drv.Outputs))
	for _, o := range a.drv.Outputs {
		own[o.Path] = true
	}
	inputs := make([]sandbox.Input, 0, len(closure))
	for _, p := range closure {
		if own[p] {
			continue // they may be in the closure of the shell, when they are made again
		}
		root, err := a.b.store.Root(a.ctx, p)
		if err != nil {
			return nil, err
		}
		in := sandbox.Input{Base: p.Base()}
		switch root.Kind {
		case castore.KindFile:
			in.Kind = sandbox.Regular
		case castore.KindSymlink:
			in.Kind, in.Target = sandbox.Symlink, root.Target
		}
		inputs = append(inputs, in)
	}
	return inputs, nil
}

// personality is what uname(2) pretends.
func (a *attempt) personality() (p uint32) {
	switch a.drv.System {
	case "i686-linux", "armv7l-linux", "armv6l-linux":
		if a.settings.System != a.drv.System {
			p = sandbox.PersonalityLinux32
		}
	}
	if a.settings.ImpersonateLinux26 && (a.drv.System == "i686-linux" || a.drv.System == "x86_64-linux") {
		p |= sandbox.PersonalityUname26
	}
	return p
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// maxProcesses is how many processes a builder may have: a quarter of what the
// machine can have, so that a fork bomb leaves room for others.
var maxProcesses = sync.OnceValue(func() uint64 {
	most := min(readNumber("/proc/sys/kernel/threads-max"), readNumber("/proc/sys/kernel/pid_max"))
	if most == 0 {
		return 0
	}
	return max(most/4, 1024)
})

// readNumber reads a number from a file of /proc; 0 when there is none.
func readNumber(file string) uint64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
