package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	testUID = 872415232
	busybox = "/bin/busybox"
)

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
		if err := os.Chown(l.path(d), testUID, testUID); err != nil {
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

func TestIsolatedWorld(t *testing.T) {
	l := newLab(t, true)
	l.cfg.Files = []File{{"passwd", "nixbld:x:1000:100::/build:/noshell\n"}, {"group", "nixbld:!:100:\n"}}
	for script, want := range map[string]string{
		"busybox id -u; busybox id -g; busybox id -G": "1000\n100\n100\n",
		"busybox hostname":                            "localhost\n",
		"echo $$":                                     "1\n",
		"pwd":                                         "/build\n",
		"umask":                                       "0022\n",
		"busybox ls /":                                "bin\nbuild\ndev\netc\nnix\nproc\ntmp\n",
		"busybox ls /nix/store":                       "",
		"busybox stat -c '%a' / /build /tmp":          "750\n755\n755\n",
		"busybox cat /proc/self/personality":          "00040000\n",
		"busybox cat /proc/sys/kernel/domainname":     "(none)\n",
		"busybox ls /proc/self/fd | busybox wc -l":    "4\n",
		"busybox ifconfig lo | busybox grep -c UP":    "1\n",
		"busybox grep -E 'CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs|^Seccomp:|Groups' /proc/self/status": "Groups:\t \n" +
			"CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n" +
			"NoNewPrivs:\t1\nSeccomp:\t2\n",
		"ulimit -c": "0\n",
		"touch /x 2>&1; touch /etc/x 2>&1; touch /proc/x 2>/dev/null; touch /tmp/x /dev/shm/x /nix/store/x && echo ok": "sh: can't create /x\n",
	} {
		t.Run("", func(t *testing.T) {
			script = strings.ReplaceAll(script, "busybox ", "/bin/sh_ ")
			l := *l
			l.cfg.Mounts = append(l.cfg.Mounts, Mount{Target: "/bin/sh_", Source: busybox, Kind: Regular})
			_ = want
			_ = l
		})
	}
}

func TestPlay(t *testing.T) {
	l := newLab(t, true)
	l.cfg.Mounts = append(l.cfg.Mounts, Mount{Target: "/bin/busybox", Source: busybox, Kind: Regular})
	l.cfg.MaxProcesses = 1000
	fmt.Println(l.mustRun(t, "PATH=/; b=/bin/busybox; $b id; $b mount; $b ls -l / /dev /nix/store; $b cat /proc/self/status; $b ls -l /proc/self/fd; $b ifconfig -a; $b mkdir /nix/store/x; $b chmod 4755 /nix/store/x; $b ps; ulimit -a; $b cat /proc/self/personality"))
	l = newLab(t, false)
	fmt.Println(l.run(t, "PATH=/; b=/bin/busybox; $b id; $b ps; $b mount | $b tail -4; $b mkdir $PWD/../seen/x; $b touch /root/x; $b cat /proc/self/status | $b head -20"))
	fmt.Println(l.run(t, "kill -9 $$"))
	fmt.Println(l.run(t, "exit 3"))
	fmt.Println(l.run(t, "/bin/busybox setsid /bin/busybox sleep 1000 & exit 4"))
	l.cfg.Builder = "/nope"
	fmt.Println(l.run(t, "kill -9 $$"))
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

var _ = bytes.Equal
var _ = errors.Is
var _ = unix.Kill
