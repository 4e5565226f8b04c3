package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds each wait for something that happens soon. Nothing depends
// on how soon.
const patience = 90 * time.Second

const socketPath = "/nix/var/nix/daemon-socket/socket"

// world is one machine: a private /nix, a configuration, users, a daemon.
type world struct {
	t       *testing.T
	dir     string // scratch, readable by all
	data    string // the daemon's data folder
	shared  string // a folder that sandboxed builds see as /e2e and may write to
	conf    []string
	daemon  *daemon
	flags   []string // further flags of the daemon
	environ []string // further environment of clients and daemon
	nixGone sync.Once
}

// user runs commands.
type user struct {
	name     string
	uid, gid uint32
}

var (
	root   = user{"root", 0, 0}
	nobody = user{"nobody", 65534, 65534}
)

// newWorld makes a world whose nix.conf has these lines at its end. Its daemon
// is not running yet.
func newWorld(t *testing.T, conf ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.data = filepath.Join(w.dir, "data")
	w.shared = filepath.Join(w.dir, "shared")
	w.conf = append([]string{
		"experimental-features = nix-command",
		"substituters =",
		"build-users-group =",
		"max-jobs = 2",
		"sandbox-paths = /bin/sh=/bin/busybox /bin/busybox /e2e=" + w.shared,
	}, conf...)
	// t.TempDir is readable by its owner alone.
	for _, dir := range []string{filepath.Dir(w.dir), w.dir} {
		must(t, os.Chmod(dir, 0o755))
	}
	for _, dir := range []string{w.shared, filepath.Join(w.dir, "tmp")} {
		must(t, os.Mkdir(dir, 0o755))
		must(t, os.Chmod(dir, 0o777|os.ModeSticky))
	}
	for _, u := range []user{root, nobody} {
		must(t, os.MkdirAll(w.home(u), 0o700))
		must(t, os.Chown(w.home(u), int(u.uid), int(u.gid)))
	}
	w.mountNix()
	w.write("lib.nix", libNix)
	w.configure()
	return w
}

// mountNix gives the world a /nix of its own, on the disk.
func (w *world) mountNix() {
	w.t.Helper()
	nix := filepath.Join(w.dir, "nix")
	must(w.t, os.Mkdir(nix, 0o755))
	must(w.t, unix.Mount(nix, "/nix", "", unix.MS_BIND, ""))
	w.t.Cleanup(w.umountNix)
}

// umountNix takes /nix away, when nothing uses it any more. Another world may
// have its own then.
func (w *world) umountNix() {
	w.t.Helper()
	w.nixGone.Do(func() {
		w.checkNothingLeft()
		if err := unix.Unmount("/nix", 0); err != nil {
			w.t.Errorf("unmount /nix: %v", err)
			unix.Unmount("/nix", unix.MNT_DETACH)
		}
	})
}

// libNix makes derivations: sh NAME SCRIPT is one with the shell as builder,
// shWith has further attributes.
const libNix = `rec {
  shWith = attrs: name: script: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh";
    args = [ "-euc" ("PATH=/bin; b() { /bin/busybox \"$@\"; }; " + script) ];
  } // attrs);
  sh = shWith { };
}
`

// started is newWorld with its daemon running.
func started(t *testing.T, conf ...string) *world {
	t.Helper()
	w := newWorld(t, conf...)
	w.start()
	return w
}

func (w *world) home(u user) string { return filepath.Join(w.dir, "home-"+u.name) }

// configure writes nix.conf.
func (w *world) configure() {
	w.t.Helper()
	must(w.t, os.MkdirAll(filepath.Join(w.dir, "etc"), 0o755))
	w.write("etc/nix.conf", strings.Join(w.conf, "\n")+"\n")
}

// write makes a file in the scratch folder and returns its path.
func (w *world) write(name, contents string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	must(w.t, os.WriteFile(path, []byte(contents), 0o644))
	return path
}

// env is the environment of u's commands.
func (w *world) env(u user) []string {
	var env []string
	for _, v := range os.Environ() {
		if !slices.ContainsFunc([]string{"NIX_", "XDG_", "HOME=", "USER=", "TMPDIR=", "LC_", "LANG"},
			func(prefix string) bool { return strings.HasPrefix(v, prefix) }) {
			env = append(env, v)
		}
	}
	env = append(env, "HOME="+w.home(u), "USER="+u.name, "TMPDIR="+w.home(u), "LC_ALL=C.UTF-8",
		"NIX_CONF_DIR="+filepath.Join(w.dir, "etc"), "NIX_REMOTE=daemon",
		"W="+w.dir, "lib="+filepath.Join(w.dir, "lib.nix"))
	return append(env, w.environ...)
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
}

// command prepares a bash script of u, which runs in u's home. In the script
// $W is the scratch folder and $lib the file of libNix.
func (w *world) command(ctx context.Context, u user, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = w.home(u)
	cmd.Env = w.env(u)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid:    true,
		Credential: &syscall.Credential{Uid: u.uid, Gid: u.gid},
	}
	// The whole group goes, not just bash.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// attempt runs a script of u and returns how it ended.
func (w *world) attempt(u user, script string) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := w.command(ctx, u, script)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := result{strings.TrimSuffix(stdout.String(), "\n"), strings.TrimSuffix(stderr.String(), "\n"), cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		return r, fmt.Errorf("did not end within %v", patience)
	}
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		return r, err
	}
	return r, nil
}

// try is attempt for a script that must come to an end of its own.
func (w *world) try(u user, script string) result {
	w.t.Helper()
	r, err := w.attempt(u, script)
	if err != nil {
		w.t.Fatalf("as %s: %s\n%v\n%v", u.name, script, err, r)
	}
	return r
}

// run is try for a script that must succeed. It returns standard output.
func (w *world) run(u user, script string) string {
	w.t.Helper()
	r := w.try(u, script)
	if r.code != 0 {
		w.t.Fatalf("as %s: %s\n%v", u.name, script, r)
	}
	return r.stdout
}

// built runs nix-build with these arguments as u, which must give one output
// that is a file, and returns its contents.
func (w *world) built(u user, args string) string {
	w.t.Helper()
	return w.run(u, "out=$(nix-build --no-out-link "+args+"); cat $out")
}

// refused is try for a script that must fail, saying each of words on its
// standard error.
func (w *world) refused(u user, script string, words ...string) result {
	w.t.Helper()
	r := w.try(u, script)
	if r.code == 0 {
		w.t.Fatalf("as %s: %s\nsucceeded, wanted a failure\n%v", u.name, script, r)
	}
	for _, word := range words {
		if !strings.Contains(r.stderr, word) {
			w.t.Errorf("as %s: %s\nstderr lacks %q\n%v", u.name, script, word, r)
		}
	}
	return r
}

// verify checks that the store is whole, contents included, and that the
// daemon still answers.
func (w *world) verify() {
	w.t.Helper()
	c := w.dial(root)
	defer c.close()
	c.op(opVerifyStore, u64(1), u64(0))
	if err := c.reply(); err != nil {
		w.t.Fatalf("verify the store: %v", err)
	}
	if c.u64() != 0 {
		w.t.Error("the store does not verify clean")
	}
}

// eventually waits until ok returns true.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
