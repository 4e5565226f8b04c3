package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const busybox = "/bin/busybox"

// testUID is ours alone, since tests kill what runs under it.
var testUID = uint32(872300000 + os.Getpid()%100000)

// lab is a set of folders for builders.
type lab struct {
	dir string
	cfg Config
}

func newLab(t testing.TB, isolated bool) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces with mounts")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	l := &lab{dir: t.TempDir()}
	for _, d := range []string{"root", "store", "upper", "work", "build", "tmp", "seen"} {
		if err := os.Mkdir(l.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"build", "upper"} {
		if err := os.Chown(l.path(d), int(testUID), int(testUID)); err != nil {
			t.Fatal(err)
		}
	}
	l.cfg = Config{
		Isolated: isolated,
		Builder:  "/bin/sh", Args: []string{"sh", "-c", "exit 0"}, Env: []string{"PATH=/bin"},
		Dir:  "/build",
		User: User{Switch: true, UID: testUID, GID: testUID}, UserNamespace: true, InsideUID: 1000, InsideGID: 100,
		StoreDir: "/nix/store", Store: l.path("store"), Upper: l.path("upper"),
		Mounts: []Mount{{Target: "/bin/sh", Source: busybox, Kind: Regular}},
		Root:   l.path("root"), Build: l.path("build"), Temp: l.path("tmp"),
		FilterSyscalls: true,
	}
	if !isolated {
		l.cfg.Builder = busybox
		l.cfg.Dir, l.cfg.StoreDir = l.path("build"), l.path("seen")
		w, err := NewWorld(l.cfg.StoreDir, l.cfg.Store, l.cfg.Upper, l.path("work"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close() })
		l.cfg.World = w
		// The test's own folder is closed to others.
		for d := l.dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// run runs a shell script as the builder.
func (l *lab) run(t testing.TB, script string) (string, Status, error) {
	t.Helper()
	l.cfg.Args = []string{"sh", "-c", script}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l.cfg.Output = w
	p, err := Start(&l.cfg)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	st, err := p.Wait()
	return string(out), st, err
}

// mustRun runs a script that has to end well.
func (l *lab) mustRun(t testing.TB, script string) string {
	t.Helper()
	out, st, err := l.run(t, script)
	if err != nil || st.WaitStatus != 0 {
		t.Fatalf("status %v, error %v, output:\n%s", st.WaitStatus, err, out)
	}
	return out
}

// What builders see is tested in package build; here is what a Config alone decides.
func TestEnds(t *testing.T) {
	for _, isolated := range []bool{true, false} {
		t.Run(fmt.Sprint("isolated=", isolated), func(t *testing.T) {
			l := newLab(t, isolated)
			for script, want := range map[string]unix.WaitStatus{
				"exit 0": 0, "exit 3": 3 << 8, "exit 255": 255 << 8, "sh -c 'exit 4'": 4 << 8,
				"setsid sleep 1000 >/dev/null 2>&1 & exit 5": 5 << 8,
			} {
				if _, st, err := l.run(t, script); err != nil || st.WaitStatus != want {
					t.Errorf("%s: status %#x, %v", script, st.WaitStatus, err)
				}
			}
		})
	}
	// Process 1 of a namespace cannot be killed from within; others can.
	l := newLab(t, false)
	if _, st, err := l.run(t, "kill -9 $$"); err != nil || !st.Signaled() || st.Signal() != unix.SIGKILL {
		t.Errorf("status %#x, %v", st.WaitStatus, err)
	}
}

func TestSetupErrors(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		step   string
		exec   bool
		err    error
	}{
		"program": {func(c *Config) { c.Builder = "/nowhere" }, "execute '/nowhere'", true, unix.ENOENT},
		"folder":  {func(c *Config) { c.Build = "/nowhere" }, "bind mount '/nowhere' to 'build'", false, unix.ENOENT},
		"input": {func(c *Config) { c.Inputs = []Input{{Base: "none"}} },
			"bind mount '.store/none' to 'nix/store/none'", false, unix.ENOENT},
		"size": {func(c *Config) { c.ShmSize = "nonsense" }, "mount 'dev/shm'", false, unix.EINVAL},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, true)
			c.change(&l.cfg)
			_, _, err := l.run(t, "exit 0")
			var setup *SetupError
			if !errors.As(err, &setup) || setup.Step != c.step || setup.Exec != c.exec || !errors.Is(err, c.err) {
				t.Errorf("%#v", err)
			}
		})
	}
	if _, err := NewWorld("/nowhere", "/tmp", "/tmp", "/tmp"); os.Getuid() == 0 && !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	l := newLab(t, true)
	l.cfg.Env = []string{"a=b\x00c"}
	if _, err := Start(&l.cfg); err == nil {
		t.Error("a NUL byte passed")
	}
}

// The file system filter holds for every way to call the kernel.
func TestModesOfUsers(t *testing.T) {
	l := newLab(t, true)
	l.cfg.UserNamespace = false
	if got := l.mustRun(t, "id -u; id -g"); got != fmt.Sprintf("%d\n%d\n", testUID, testUID) {
		t.Errorf("without a user namespace: %q", got)
	}
	l.cfg.AllowNewPrivileges = true
	if got := l.mustRun(t, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"); got != "NoNewPrivs:\t0\nSeccomp:\t2\n" {
		t.Errorf("with new privileges: %q", got)
	}
	l.cfg.UserNamespace = true
	if got := l.mustRun(t, "id -u; grep -E 'NoNewPrivs|CapEff' /proc/self/status"); got != "1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t0\n" {
		t.Errorf("with both: %q", got)
	}
}

func TestInputsAreReadOnly(t *testing.T) {
	l := newLab(t, true)
	l.cfg.User = User{} // even for root
	if err := os.MkdirAll(l.path("store/dir/sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	for name, contents := range map[string]string{"store/file": "f", "store/dir/x": "x"} {
		if err := os.WriteFile(l.path(name), []byte(contents), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("dir/x", l.path("store/link")); err != nil {
		t.Fatal(err)
	}
	l.cfg.Inputs = []Input{{Base: "dir"}, {Base: "file", Kind: Regular}, {Base: "link", Kind: Symlink, Target: "dir/x"}}
	got := l.mustRun(t, `cd /nix/store; cat file link dir/x; ls; for f in file dir/x dir/new; do echo y > $f; done 2>&1; mv dir d 2>&1; touch out`)
	want := "fxxdir\nfile\nlink\n"
	if !strings.HasPrefix(got, want) || strings.Count(got, "Read-only file system") != 3 || !strings.Contains(got, "mv: ") {
		t.Errorf("%q", got)
	}
	if b, err := os.ReadFile(l.path("store/dir/x")); string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestKillUser(t *testing.T) {
	l := newLab(t, false)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l.cfg.Output, l.cfg.Args = w, []string{"sh", "-c", "echo x; exec sleep 1000"}
	p, err := Start(&l.cfg)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := KillUser(l.cfg.User); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if st, err := p.Wait(); err != nil || !st.Signaled() {
		t.Errorf("%#x, %v", st.WaitStatus, err)
	}
}

func BenchmarkStart(b *testing.B) {
	for _, isolated := range []bool{true, false} {
		b.Run(fmt.Sprint("isolated=", isolated), func(b *testing.B) {
			l := newLab(b, isolated)
			for b.Loop() {
				l.mustRun(b, "exit 0")
			}
		})
	}
}
