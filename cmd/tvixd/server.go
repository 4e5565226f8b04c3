package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tvixd/tvixd/build"
	"github.com/tvixd/tvixd/daemon"
	"github.com/tvixd/tvixd/fuse"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// serverOptions say which parts of a server are wanted.
type serverOptions struct {
	dataDir string
	mount   bool
	hide    bool     // what lies in the store folder
	alone   bool     // no sockets: the only client is in this process
	trust   wp.Trust // TrustUnknown: as nix.conf says
}

// server is everything that runs in the process that has the store.
type server struct {
	layout    daemon.Layout
	instance  *instance
	mount     *fuse.Server
	builder   *build.Builder
	daemon    *daemon.Daemon
	listeners []net.Listener
	control   *control
	logger    *slog.Logger
}

// startServer brings everything up but the accepting of clients. The order is that of need; close
// goes the other way round.
func startServer(ctx context.Context, env *environment, o serverOptions, logger *slog.Logger) (_ *server, err error) {
	s := &server{layout: env.layout, logger: logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, name := range daemon.IgnoredSettings(env.config) {
		logger.Warn("a setting of nix.conf has no effect", "setting", name)
	}
	if !o.alone {
		for _, text := range daemon.Shortcomings(env.config) {
			logger.Warn(text)
		}
	}
	warnOfBuildGroup(env.config.BuildUsersGroup, logger)
	symlinks := env.config.AllowSymlinkedStore || os.Getenv("NIX_IGNORE_SYMLINK_STORE") == "1"
	if err := env.layout.PrepareMountPoint(symlinks); err != nil {
		return nil, err
	}
	if s.instance, err = openInstance(ctx, o.dataDir, env.layout, logger); err != nil {
		return nil, err
	}
	if err := env.layout.Prepare(logger); err != nil {
		return nil, err
	}
	if err := s.instance.collector.Prepare(); err != nil {
		return nil, err
	}
	if !o.alone {
		// Before the mount: where another daemon listens, the store folder is its own.
		if err := s.listen(); err != nil {
			return nil, err
		}
	}
	if o.mount {
		if err := s.mountStore(o.hide); err != nil {
			return nil, err
		}
	}
	signer, err := daemon.LoadSigner(env.layout.Store, env.config.SecretKeyFiles)
	if err != nil {
		return nil, err
	}
	s.builder, err = build.New(build.Options{
		Store:        s.instance.store,
		HostStoreDir: string(env.layout.Store),
		StateDir:     env.layout.StateDir,
		LogDir:       env.layout.LogDir,
		ScratchDir:   filepath.Join(s.instance.dir, "builds"),
		Sign:         signer.Sign,
		Logger:       logger,
	})
	if err != nil {
		return nil, err
	}
	s.daemon, err = daemon.New(daemon.Options{
		Store:     s.instance.store,
		Builder:   s.builder,
		Collector: s.instance.collector,
		Config:    env.config,
		Trust:     o.trust,
		Signer:    signer,
		Version:   "tvixd " + versionString(),
		Logger:    logger,
	})
	return s, err
}

// warnOfBuildGroup tells of a group that does not exist, without which no build can start.
func warnOfBuildGroup(name string, logger *slog.Logger) {
	if name == "" || os.Geteuid() != 0 {
		return
	}
	if _, err := user.LookupGroup(name); err != nil {
		logger.Warn(fmt.Sprintf("the group '%s' specified in 'build-users-group' does not exist", name))
	}
}

// listen takes the sockets that a service manager has opened, or opens one.
func (s *server) listen() (err error) {
	if s.control, err = listenControl(s.layout); err != nil {
		return err
	}
	s.listeners, err = daemon.Activated()
	if len(s.listeners) > 0 || err != nil {
		return err
	}
	l, err := daemon.Listen(s.layout.Socket, 0o666)
	if err != nil {
		return err
	}
	s.listeners = []net.Listener{l}
	return nil
}

// mountStore shows the store as a file system, and what becomes valid or invalid at once.
func (s *server) mountStore(hide bool) error {
	st := s.instance.store
	// A mount of a tvixd, dead or alive, is fuse.Mount's to judge.
	if !hide && !strings.HasPrefix(mountedType(string(s.layout.Store)), "fuse") {
		if err := s.layout.RequireEmpty(); err != nil {
			return fmt.Errorf("%w; move them away, or say --hide-existing", err)
		}
	}
	mount, err := fuse.Mount(context.Background(), fuse.Options{ // it ends with close alone
		Mountpoint:          string(s.layout.Store),
		Roots:               st.Roots(),
		Castore:             st.Castore(),
		ListRoot:            true,
		AllowOther:          true,
		DistinctDirectories: true,
		DataDir:             s.instance.dir,
		Logger:              s.logger,
	})
	if err != nil {
		return err
	}
	s.mount = mount
	st.Listen(store.Listener{
		Added:   func(paths []storepath.Path) { mount.Added(baseNames(paths)) },
		Removed: func(paths []storepath.Path) { mount.Removed(baseNames(paths)) },
	})
	return nil
}

// mountedType is the type of the file system that is mounted on dir, or "". The kernel's table is
// read, for a mount whose server hangs must not be looked at.
func mountedType(dir string) string {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	dir = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(dir)
	found := ""
	for line := range strings.Lines(string(table)) {
		place, rest, ok := strings.Cut(line, " - ")
		if fields := strings.Fields(place); ok && len(fields) > 4 && fields[4] == dir {
			found, _, _ = strings.Cut(rest, " ") // the last one is on top
		}
	}
	return found
}

func baseNames(paths []storepath.Path) []string {
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = p.Base()
	}
	return names
}

// serve accepts clients until ctx is done or the mount is gone.
func (s *server) serve(ctx context.Context, stdout io.Writer) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		group.Go(func() error { return s.daemon.Serve(l) })
	}
	group.Go(func() error { return s.control.serve(s.daemon) })
	if s.mount != nil {
		group.Go(func() error {
			select {
			case <-s.mount.Done():
				return fmt.Errorf("the store was unmounted from %s by somebody else", s.layout.Store)
			case <-ctx.Done():
				return nil
			}
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		s.closeListeners()
		return nil
	})
	fmt.Fprintf(stdout, "tvixd is ready: store %s, socket %s, data %s\n", s.layout.Store, s.layout.Socket, s.instance.dir)
	if err := notifyManager("READY=1"); err != nil {
		s.logger.Warn("cannot notify the service manager", "error", err)
	}
	err := group.Wait()
	_ = notifyManager("STOPPING=1")
	return err
}

func (s *server) closeListeners() {
	for _, l := range s.listeners {
		l.Close()
	}
	if s.control != nil {
		s.control.close()
	}
}

// close stops what startServer has started: no new clients, no running ones, no builds, no mount.
func (s *server) close() error {
	var errs []error
	s.closeListeners()
	var ending sync.WaitGroup
	if s.daemon != nil {
		ending.Go(s.daemon.Close)
	}
	if s.builder != nil {
		errs = append(errs, s.builder.Close())
	}
	ending.Wait()
	if s.mount != nil {
		errs = append(errs, s.mount.Unmount())
	}
	if s.instance != nil {
		errs = append(errs, s.instance.close())
	}
	return errors.Join(errs...)
}
