package build

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	castorememory "github.com/tvixd/tvixd/castore/memory"
	infomemory "github.com/tvixd/tvixd/pathinfo/memory"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// helperEnv tells a second run of the test binary what to do.
const helperEnv = "TVIXD_BUILD_TEST_HELPER"

func TestMain(m *testing.M) {
	if what := os.Getenv(helperEnv); what != "" {
		helper(what)
		return
	}
	os.Exit(m.Run())
}

// helper runs one endless build in a given lab folder, as a daemon that will
// be killed, or builds as a build user.
func helper(what string) {
	kind, rest, _ := strings.Cut(what, " ")
	dir, mark, _ := strings.Cut(rest, " ")
	l := &lab{dir: dir}
	l.store = store.New(store.Options{
		Dir: storepath.Dir(l.path("store")), Castore: castorememory.New(), PathInfo: infomemory.New(),
	})
	b, err := New(Options{Store: l.store, StateDir: l.path("state"), LogDir: l.path("logs"), ScratchDir: l.path("scratch")})
	if err != nil {
		fatal(err)
	}
	l.builder = b
	l.set = DefaultSettings("x86_64-linux")
	l.set.MaxJobs = 4
	l.set.SandboxPaths = []SandboxPath{{Target: "/bin/sh", Source: busybox}}
	l.TB = helperTB{}
	switch kind {
	case "endless":
		script := `trap '' TERM INT HUP; echo begun; mkdir $out a; touch a/b $out/c; (setsid sleep ` + mark + `) & sleep ` + mark
		isolated := l.derive(recipe{name: "isolated", script: script})
		r := l.request(lineSink{}, isolated)
		l.set.Sandbox = SandboxOff
		open := l.derive(recipe{name: "open", script: script})
		for _, r := range []Request{r, l.request(lineSink{}, open)} {
			go func() {
				_, err := b.Build(context.Background(), r)
				fatal(err)
			}()
		}
		select {}
	case "users":
		l.set.BuildUsersGroup = "tvixdtest"
		if mark == "open" {
			l.set.Sandbox = SandboxOff
		}
		var ds []built
		for i := range 3 {
			ds = append(ds, l.derive(recipe{name: fmt.Sprint("user-", i), script: `
echo uid $(id -u) gid $(id -g) groups $(id -G); mkdir $out; echo x > $out/x
sleep 1000 >/dev/null 2>&1 </dev/null & sleep 0.1`}))
		}
		res, err := b.Build(context.Background(), l.request(lineSink{}, ds...))
		if err != nil {
			fatal(err)
		}
		for _, r := range res {
			fmt.Println("status", r.Status, plain(r.ErrorMsg))
		}
		if err := b.Close(); err != nil {
			fatal(err)
		}
	}
}

func fatal(err error) {
	fmt.Println("error:", err)
	os.Exit(1)
}

// helperTB lets the lab's functions work outside of a test.
type helperTB struct{ testing.TB }

func (helperTB) Helper()           {}
func (helperTB) Fatal(args ...any) { fatal(fmt.Errorf("%v", args)) }

// lineSink prints log lines.
type lineSink struct{ discard }

func (lineSink) Result(_, typ uint64, fields []any) {
	if typ == ResBuildLogLine {
		fmt.Println(fields[0])
	}
}

// After a kill -9 of the daemon its builders end, and the next one cleans up.
func TestDaemonIsKilled(t *testing.T) {
	l := newLab(t)
	if err := os.Symlink(busybox, l.path("sh")); err != nil {
		t.Fatal(err)
	}
	if err := l.builder.Close(); err != nil {
		t.Fatal(err)
	}
	m := marker()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"=endless "+l.dir+" "+m, "TMPDIR="+l.path("builds"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	for range 2 {
		if !sc.Scan() || sc.Text() != "begun" {
			t.Fatalf("helper says %q", sc.Text())
		}
	}
	waitFor(t, "builders", func() bool { return processesWith(t, "sleep\x00"+m) >= 4 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	waitFor(t, "the builders' end", func() bool { return processesWith(t, "sleep\x00"+m) == 0 })
	l.open()
	l.checkClean()
	if left, err := filepath.Glob(l.path("builds/*")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	d := l.derive(recipe{name: "after", script: `touch $out`})
	if res, _ := l.build(d); res.Status != Built {
		t.Errorf("%+v", res)
	}
}

// Build users come from a group; the helper has group files of its own.
func TestBuildUsers(t *testing.T) {
	for _, mode := range []string{"isolated", "open"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t)
			if err := os.Symlink(busybox, l.path("sh")); err != nil {
				t.Fatal(err)
			}
			if err := l.builder.Close(); err != nil {
				t.Fatal(err)
			}
			files := map[string]string{
				"passwd": "root:x:0:0::/:/bin/sh\ntvixdtest1:x:987654:987650::/:/x\ntvixdtest2:x:987655:987650::/:/x\n",
				"group":  "root:x:0:\ntvixdtest:x:987650:tvixdtest1,tvixdtest2\nextra:x:987651:tvixdtest1,tvixdtest2\n",
			}
			script := "mount --make-rprivate /\n"
			for name, contents := range files {
				if err := os.WriteFile(l.path(name), []byte(contents), 0o644); err != nil {
					t.Fatal(err)
				}
				script += "mount --bind " + l.path(name) + " /etc/" + name + "\n"
			}
			cmd := exec.Command(busybox, "sh", "-ec", script+"exec "+os.Args[0])
			cmd.Env = append(os.Environ(), helperEnv+"=users "+l.dir+" "+mode, "TMPDIR="+l.path("builds"))
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			got := string(out)
			if n := strings.Count(got, "status 0"); n != 3 {
				t.Errorf("%d of 3 built:\n%s", n, got)
			}
			want := "uid 1000 gid 100 groups 100\n"
			if mode == "open" {
				want = " gid 987650 groups 987650 987651\n"
				if !strings.Contains(got, "uid 987654 gid") {
					t.Errorf("no build as the first user:\n%s", got)
				}
			}
			if n := strings.Count(got, want); n != 3 {
				t.Errorf("%q in %d of 3 logs:\n%s", want, n, got)
			}
			if left, err := filepath.Glob(l.path("builds/*")); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
			for _, uid := range []string{"987654", "987655"} {
				if _, err := os.Stat(l.path("state/userpool/" + uid)); err != nil && uid == "987654" {
					t.Error(err)
				}
			}
			l.open()
		})
	}
}

func TestReadGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "group")
	if err := os.WriteFile(file, []byte("a:x:1:\nbroken\nnixbld:x:30000:nixbld1, nixbld2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	gid, members, err := readGroup(file, "nixbld")
	if err != nil || gid != 30000 || strings.Join(members, " ") != "nixbld1 nixbld2" {
		t.Errorf("%d %v %v", gid, members, err)
	}
	if _, _, err := readGroup(file, "none"); err == nil || plain(err.Error()) !=
		"the group 'none' specified in 'build-users-group' does not exist" {
		t.Error(err)
	}
}
