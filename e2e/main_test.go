// Package e2e drives the real tvixd binary with the real nix client.
//
// Each test runs in a child of the test process that has mount and pid
// namespaces of its own, with a private /nix: what it mounts or leaves running
// ends with it, and two tests never meet. In there it starts the daemon, runs
// scripts as root and as an ordinary user, stops the daemon, and checks that
// nothing was left behind.
//
//	TVIXD_E2E_DAEMON=nix    run the same tests against the machine's nix-daemon,
//	                        which says whether they ask for the right thing
//	TVIXD_E2E_BINARY=FILE   use this tvixd instead of building one
//	TVIXD_E2E_RACE=1        build tvixd with the race detector
//	TVIXD_KILLS=N           how often the kill test kills (default: what fits in
//	                        its time budget, at most 25)
package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	// The binary is built by a child process, which the test cache does not
	// see; but it does see that the daemon's packages changed.
	_ "github.com/tvixd/tvixd/daemon"
)

const (
	innerVar  = "TVIXD_E2E_INNER"  // set in a namespace: the test to run there
	binaryVar = "TVIXD_E2E_BINARY" // the daemon under test
	kindVar   = "TVIXD_E2E_DAEMON" // tvixd or nix
)

// testTime is how long one test may take before it is killed with all that it
// started. It is far more than any needs, for slow and busy machines.
const testTime = 5 * time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(innerVar) != "" {
		if err := enterNamespaces(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: prepare the namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	os.Exit(runOutside(m))
}

func runOutside(m *testing.M) int {
	// The mountpoint must exist outside of the namespaces. It stays: its removal
	// would take it, with all that is mounted there, from namespaces of others.
	if os.Geteuid() == 0 {
		_ = os.Mkdir("/nix", 0o755)
	}
	defer tvixd.remove()
	return m.Run()
}

// testBinary builds tvixd once, when the first test needs it.
type testBinary struct {
	once sync.Once
	dir  string
	path string
	err  error
}

var tvixd testBinary

func (b *testBinary) get() (string, error) {
	b.once.Do(func() {
		if b.path = os.Getenv(binaryVar); b.path != "" || underTest() == "nix" {
			return
		}
		if b.dir, b.err = os.MkdirTemp("", "tvixd-e2e-"); b.err != nil {
			return
		}
		// Builders of other users re-execute the binary.
		if b.err = os.Chmod(b.dir, 0o755); b.err != nil {
			return
		}
		b.path = filepath.Join(b.dir, "tvixd")
		args := []string{"build", "-buildvcs=false", "-o", b.path}
		if os.Getenv("TVIXD_E2E_RACE") != "" {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "../cmd/tvixd")...)
		if out, err := build.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build tvixd: %w\n%s", err, out)
		}
	})
	return b.path, b.err
}

func (b *testBinary) remove() {
	if b.dir != "" {
		os.RemoveAll(b.dir)
	}
}

// underTest is the daemon that the tests run against.
func underTest() string {
	if os.Getenv(kindVar) == "nix" {
		return "nix"
	}
	return "tvixd"
}

// isolated runs body in namespaces of its own, in parallel with other tests.
func isolated(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(innerVar) == t.Name() {
		body(t)
		return
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a store and starts a daemon")
	}
	for _, file := range []string{"/dev/fuse", "/bin/busybox"} {
		if _, err := os.Stat(file); err != nil {
			t.Skip("needs", file)
		}
	}
	for _, program := range []string{"nix", "nix-store", "nix-build"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs nix: ", err)
		}
	}
	path, err := tvixd.get()
	if err != nil {
		t.Fatal(err)
	}
	runInside(t, path)
}

// runInside runs this test alone in a child with namespaces of its own.
func runInside(t *testing.T, path string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v=true", "-test.timeout=0", "-test.count=1"}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), innerVar+"="+t.Name(), binaryVar+"="+path, "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	cmd.WaitDelay = 10 * time.Second
	// The child ends when this end of the pipe is closed, however we end.
	alive, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	out, err := cmd.CombinedOutput()
	t.Logf("in its namespaces:\n%s", out)
	switch {
	case ctx.Err() != nil:
		t.Errorf("did not end within %v", testTime)
	case err != nil:
		t.Errorf("failed: %v", err)
	}
}

// enterNamespaces makes the namespaces that the process was started in fit for
// use: no mount is seen by others, /proc shows the own processes, /tmp is
// private and readable by all, whatever TMPDIR was. A world brings its /nix.
func enterNamespaces() error {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1) // the outer process is gone
	}()
	err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
	)
	if err != nil {
		return err
	}
	scratch, err := os.Open(os.TempDir())
	if err != nil {
		return err
	}
	defer scratch.Close()
	var program *os.File
	if path := os.Getenv(binaryVar); path != "" {
		if program, err = os.Open(path); err != nil {
			return err
		}
		defer program.Close()
	}
	return errors.Join(
		unix.Mount("tmp", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"),
		bindTo("/tmp/e2e", scratch),
		bindTo("/tmp/tvixd", program),
		os.Setenv("TMPDIR", "/tmp/e2e"),
		os.Setenv(binaryVar, "/tmp/tvixd"),
	)
}

// bindTo shows an open file or folder at a new path. Nil is shown nowhere.
func bindTo(path string, f *os.File) error {
	if f == nil {
		return nil
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.IsDir() {
		err = os.Mkdir(path, 0o755)
	} else {
		err = os.WriteFile(path, nil, 0o755)
	}
	return errors.Join(err, unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), path, "", unix.MS_BIND, ""))
}
