package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/build/sandbox"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// attempt is one run of a job's builder.
type attempt struct {
	*job
	user      *buildUser // nil: the daemon's own
	workspace *workspace
	log       *buildLog
	missing   map[string]bool // outputs that are not valid
	closure   []storepath.Path
}

// build makes the outputs, unless they are there by now.
func (j *job) build() (o outcome, err error) {
	a := &attempt{job: j}
	j.lease.Add(j.drvPath)
	j.lease.Add(j.inputs...)
	if a.missing, err = j.missingOutputs(); err != nil {
		return o, err
	}
	if len(a.missing) == 0 && j.mode == Normal {
		return outcome{status: AlreadyValid}, nil
	}
	if a.closure, err = j.closure(j.inputs); err != nil {
		return o, err
	}
	j.lease.Add(a.closure...)
	if a.user, err = j.acquireUser(); err != nil {
		return o, err
	}
	if a.user != nil {
		defer a.user.release()
	}
	return a.run()
}

// missingOutputs are the outputs that are not valid.
func (j *job) missingOutputs() (map[string]bool, error) {
	byPath := make(map[storepath.Path]string, len(j.drv.Outputs))
	paths := make([]storepath.Path, 0, len(j.drv.Outputs))
	missing := make(map[string]bool, len(j.drv.Outputs))
	for name, out := range j.drv.Outputs {
		byPath[out.Path] = name
		paths = append(paths, out.Path)
		missing[name] = true
	}
	j.lease.Add(paths...)
	valid, err := j.b.store.PathInfo().Valid(j.ctx, paths)
	if err != nil {
		return nil, err
	}
	for _, p := range valid {
		delete(missing, byPath[p])
	}
	return missing, nil
}

// closure is the closure of paths by references, sorted.
func (j *job) closure(paths []storepath.Path) ([]storepath.Path, error) {
	closure, err := j.b.store.Closure(j.ctx, paths, store.ClosureOptions{})
	if err != nil {
		return nil, err
	}
	storepath.Sort(closure)
	return closure, nil
}

// acquireUser takes a build user, or none if the builder runs as the daemon.
func (j *job) acquireUser() (*buildUser, error) {
	group := j.settings.BuildUsersGroup
	if os.Getuid() != 0 || group == "" && !j.isolated {
		return nil, nil
	}
	pool, err := j.b.users.pool(group)
	if err != nil {
		return nil, err
	}
	act := uint64(0)
	defer func() {
		if act != 0 {
			j.fan.StopActivity(act)
		}
	}()
	return pool.acquire(j.ctx, func() {
		act = j.fan.StartActivity(LevelWarn, ActBuildWaiting,
			fmt.Sprintf("waiting for a free build user ID for '%s'", j.b.dir.Join(j.drvPath)), nil, 0)
	})
}

// run runs the builder and takes in its outputs.
func (a *attempt) run() (o outcome, err error) {
	if !a.isolated {
		if _, err := os.Lstat(homeDir); err == nil {
			return o, failf(MiscFailure, "home directory '%s' exists; please remove it to assure purity of builds "+
				"without sandboxing", homeDir)
		}
	}
	if err := a.createWorkspace(); err != nil {
		return o, err
	}
	keep := false
	defer func() {
		if e := a.workspace.release(keep); e != nil {
			a.b.logger.Error("cannot clean up after a build", "derivation", a.drvPath, "error", e)
		}
	}()
	cfg, err := a.config()
	if err != nil {
		return o, err
	}

	dir := a.b.dir
	what := map[Mode]string{Normal: "building", Repair: "repairing outputs of", Check: "checking outputs of"}[a.mode]
	drv := dir.Join(a.drvPath)
	act := a.fan.StartActivity(LevelInfo, ActBuild, what+" '"+drv+"'", []any{drv, "", uint64(1), uint64(1)}, 0)
	defer a.fan.StopActivity(act)
	a.log = &buildLog{
		sink: a.fan, act: act, maxSize: a.settings.MaxLogSize, tailSize: a.settings.LogLines,
		file: newLogFile(a.b.logDir, a.drvPath, &a.settings),
	}

	status, err := a.execute(cfg)
	o.built, o.user, o.sys = 1, status.User, status.System
	if err == nil && status.WaitStatus != 0 {
		err = a.builderFailed(status.WaitStatus)
	}
	if err == nil {
		if err = a.takeOutputs(); err == nil {
			return o, nil // Built is zero
		}
	}
	o.nondet = isStatus(err, NotDeterministic)
	if a.ctx.Err() == nil && a.keepFailed() {
		keep = a.keepBuildFolder()
	}
	return o, err
}

func isStatus(err error, s Status) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == s
}

// createWorkspace makes the folders. The build folder is where Nix has it when
// it might be kept, or when the builder sees the host's folders.
func (a *attempt) createWorkspace() (err error) {
	opts := workspaceOptions{
		isolated: a.isolated,
		builder:  owner{os.Geteuid(), os.Getegid()},
		drvName:  a.drvPath.Name(),
	}
	if a.user != nil {
		opts.builder = owner{int(a.user.UID), int(a.user.GID)}
	}
	// A build user that sees the host's folders could not get into the scratch
	// folder.
	if a.settings.BuildDir != "" || !a.isolated && a.user != nil || a.keepFailed() {
		if opts.elsewhere = a.settings.BuildDir; opts.elsewhere == "" {
			opts.elsewhere = os.TempDir()
		}
	}
	opts.reuse = a.sealed()
	opts.hides = len(a.missing) < len(a.drv.Outputs)
	for _, o := range a.drv.Outputs {
		opts.outputs = append(opts.outputs, o.Path)
	}
	a.workspace, err = a.b.scratch.acquire(opts)
	return err
}

// sealed reports whether nothing that the builder holds, such as an open
// descriptor of its build folder, can get to a process that outlives it. The
// daemon's own user does not need such tricks.
func (a *attempt) sealed() bool {
	if !a.isolated {
		return a.user == nil
	}
	if a.drv.IsFixed() {
		return false // it is in the host's network
	}
	for _, p := range a.settings.SandboxPaths {
		// A folder might hold a socket.
		if st, err := os.Stat(p.Source); err == nil && !st.Mode().IsRegular() && !a.inStore(p.Source) {
			return false
		}
	}
	deps, _, err := a.attrs.stringList("__impureHostDeps")
	return err == nil && len(deps) == 0
}

// keepBuildFolder leaves the build folder behind and tells the clients.
func (a *attempt) keepBuildFolder() bool {
	dir, err := a.workspace.keep()
	if err != nil {
		a.b.logger.Warn("cannot keep a build folder", "error", err)
		return false
	}
	a.fan.Log(LevelError, "note: keeping build directory '"+dir+"'")
	return true
}

// execute runs the builder's process until nothing of it is left.
func (a *attempt) execute(cfg *sandbox.Config) (st sandbox.Status, err error) {
	pty, slave, err := openPTY(cfg.User)
	if err != nil {
		return st, err
	}
	defer pty.Close()
	cfg.Output = slave
	proc, err := sandbox.Start(cfg)
	slave.Close()
	if err != nil {
		return st, err
	}
	stop := context.AfterFunc(a.ctx, proc.Kill)
	defer stop()

	limit := a.readLog(pty)
	proc.Kill() // The end of its output is the end of a builder.
	st, err = proc.Wait()
	var setup *sandbox.SetupError
	switch {
	case limit != nil:
		err = limit
	case a.ctx.Err() != nil:
		err = a.ctx.Err()
	case errors.As(err, &setup) && setup.Exec:
		// To the client it is the builder that cannot run its program.
		a.log.write(fmt.Appendf(nil, "error: executing '%s': %s\n", a.drv.Builder, errnoName(setup.Err)))
		st.WaitStatus, err = 1<<8, nil
	case errors.As(err, &setup):
		err = &Error{Status: MiscFailure, Msg: fmt.Sprintf("while setting up the build environment: %s: %s",
			setup.Step, errnoName(setup.Err))}
	}
	a.log.end()
	if setup != nil && !setup.Exec {
		a.log.file.abort() // nothing ran that could have said something
		return st, err
	}
	if e := a.log.file.close(); e != nil {
		a.b.logger.Warn("cannot keep a build log", "error", e)
	}
	return st, err
}

// readLog reads the builder's output to its end, or until a limit is passed.
func (a *attempt) readLog(pty *os.File) error {
	start := time.Now()
	last := start
	buf := make([]byte, 16<<10)
	for {
		var deadline time.Time
		if t := a.settings.Timeout; t > 0 {
			deadline = start.Add(t)
		}
		if t := a.settings.MaxSilentTime; t > 0 && (deadline.IsZero() || last.Add(t).Before(deadline)) {
			deadline = last.Add(t)
		}
		if !deadline.IsZero() {
			if err := pty.SetReadDeadline(deadline); err != nil {
				return fmt.Errorf("set time limit of the builder: %w", err)
			}
		}
		n, err := pty.Read(buf)
		if n > 0 {
			last = time.Now()
			if !a.log.write(buf[:n]) {
				return &Error{Status: LogLimitExceeded, Msg: fmt.Sprintf(
					"%s killed after writing more than %d bytes of log output", a.name, a.settings.MaxLogSize)}
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return a.timeoutError(start)
		default:
			return nil // EIO: nobody has the other side any more
		}
	}
}

func (a *attempt) timeoutError(start time.Time) error {
	if t := a.settings.Timeout; t > 0 && time.Since(start) >= t {
		return &Error{Status: TimedOut, Msg: fmt.Sprintf("%s timed out after %d seconds", a.name, int(t.Seconds()))}
	}
	return &Error{Status: TimedOut, Msg: fmt.Sprintf("%s timed out after %d seconds of silence",
		a.name, int(a.settings.MaxSilentTime.Seconds()))}
}

// builderFailed is the error of a builder that ended badly.
func (a *attempt) builderFailed(st unix.WaitStatus) error {
	drv := a.b.dir.Join(a.drvPath)
	full := a.diskFull()
	msg := "builder for '" + ansiMagenta + drv + ansiNormal + "' " + describe(st)
	if tail := a.log.tail; len(tail) > 0 {
		msg += fmt.Sprintf(";\nlast %d log lines:\n", len(tail))
		for _, line := range tail {
			msg += "> " + line + "\n"
		}
		msg += "For full logs, run '" + ansiBold + "nix log " + drv + ansiNormal + "'."
	}
	if full {
		msg += "\nnote: build failure may have been caused by lack of free disk space"
	}
	status := PermanentFailure
	if full || a.drv.IsFixed() {
		status = TransientFailure
	}
	return &Error{Status: status, Msg: msg}
}

// diskFull guesses whether there was no room: one cannot know what a builder
// met.
func (a *attempt) diskFull() bool {
	const required = 8 << 20
	for _, dir := range []string{a.workspace.dir, a.workspace.build} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Bavail*uint64(st.Bsize) < required {
			return true
		}
	}
	return false
}
