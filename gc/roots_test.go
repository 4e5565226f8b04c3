package gc

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

func (f *fixture) roots(censor bool) []Root {
	f.t.Helper()
	roots, err := f.gc.FindRoots(context.Background(), censor, f.message)
	if err != nil {
		f.t.Fatal(err)
	}
	return roots
}

// TestRoots makes one root of each kind and of each thing that is none.
func TestRoots(t *testing.T) {
	f := newFixture(t)
	elsewhere := t.TempDir()
	gcroots := filepath.Join(f.state, "gcroots")
	p := func(name string) storepath.Path { return pathOf(name) }
	want := map[string]storepath.Path{} // by link
	proc := map[string]storepath.Path{} // by link below proc

	// Direct ones, some into a path.
	f.symlink(f.full(p("direct")), gcroots+"/direct")
	want[gcroots+"/direct"] = p("direct")
	f.symlink(f.full(p("nested"))+"/bin/sh", gcroots+"/a/b/nested")
	want[gcroots+"/a/b/nested"] = p("nested")
	f.symlink(f.full(p("per-user")), gcroots+"/per-user/alice/x")
	want[gcroots+"/per-user/alice/x"] = p("per-user")
	f.write(gcroots+"/"+p("named-file").Base(), "")
	want[gcroots+"/"+p("named-file").Base()] = p("named-file")
	f.symlink(f.full(p("system-42")), f.state+"/profiles/system-42-link")
	f.symlink("system-42-link", f.state+"/profiles/system")
	want[f.state+"/profiles/system-42-link"] = p("system-42")

	// Indirect ones: absolute, relative, by the own operation.
	f.symlink(f.full(p("indirect")), elsewhere+"/result")
	f.symlink(elsewhere+"/result", gcroots+"/auto/x")
	want[elsewhere+"/result"] = p("indirect")
	f.symlink(f.full(p("relative"))+"/", f.state+"/other/result")
	f.symlink("../../other/result", gcroots+"/auto/y")
	want[f.state+"/other/result"] = p("relative")
	f.symlink(f.full(p("added")), elsewhere+"/added")
	if err := f.gc.AddIndirectRoot(elsewhere + "//added/."); err != nil {
		t.Fatal(err)
	}
	want[elsewhere+"/added"] = p("added")
	auto := filepath.Join(gcroots, "auto", nixhash.Sum(nixhash.SHA1, []byte(elsewhere+"/added")).Nix32())
	if target, err := os.Readlink(auto); err != nil || target != elsewhere+"/added" {
		t.Errorf("the indirect root: %q, %v", target, err)
	}

	// Processes and the kernel.
	f.symlink(f.full(p("exe"))+"/bin/x", f.proc+"/17/exe")
	proc["/17/exe"] = p("exe")
	f.symlink(f.full(p("cwd")), f.proc+"/17/cwd")
	proc["/17/cwd"] = p("cwd")
	f.symlink(f.full(p("open"))+"/file (deleted)", f.proc+"/17/fd/3")
	proc["/17/fd/3"] = p("open")
	f.symlink("socket:[1234]", f.proc+"/17/fd/4")
	f.write(f.proc+"/17/maps", "7f00-7f01 r--p 00000000 fe:00 42 "+f.full(p("mapped"))+"/lib/libx.so\n"+
		"7f01-7f02 r--p 00000000 fe:00 42 /root"+f.full(p("other-tree"))+"/lib\n7f02-7f03 rw-p 00000000 00:00 0 [heap]\n")
	proc["/17/maps"] = p("mapped")
	f.write(f.proc+"/17/environ", "A=1\x00PATH=/bin:"+f.full(p("environ"))+"/bin:"+f.full(p("unknown"))+"/bin\x00")
	proc["/17/environ"] = p("environ")
	f.write(f.proc+"/sys/kernel/modprobe", f.full(p("modprobe"))+"/bin/modprobe\n")
	proc["/sys/kernel/modprobe"] = p("modprobe")
	f.write(f.proc+"/sys/kernel/poweroff_cmd", "/sbin/poweroff\n")
	// A process of which little can be seen, one without anything, none.
	f.symlink(f.full(p("exe")), f.proc+"/18/exe")
	proc["/18/exe"] = p("exe")
	f.write(f.proc+"/19/comm", "x")
	f.symlink(f.full(p("not-a-process")), f.proc+"/self/exe")

	for _, m := range []map[string]storepath.Path{want, proc} {
		for path := range maps.Values(m) {
			f.add(path.Name())
		}
	}
	f.add("other-tree")
	f.add("not-a-process")

	// None of these is a root or an error.
	f.symlink(f.full(p("unknown")), gcroots+"/unknown")
	f.symlink("/nix/store/not-a-path", gcroots+"/bad-name")
	f.symlink("/nix/store", gcroots+"/store")
	f.symlink("/etc/passwd", gcroots+"/auto/file")
	f.symlink(elsewhere+"/missing", gcroots+"/auto/stale")
	f.symlink(elsewhere+"/missing", gcroots+"/kept")
	f.symlink(gcroots, gcroots+"/loop")
	f.symlink("self", gcroots+"/self")
	f.symlink(strings.Repeat("x/", 2047), gcroots+"/long")
	f.write(gcroots+"/plain", "")
	if err := exec.Command("mkfifo", gcroots+"/fifo").Run(); err != nil {
		t.Fatal(err)
	}

	l := f.store.NewLease()
	defer l.Release()
	l.Add(f.add("leased"), p("leased-but-unknown"))

	check := func(censor bool) {
		t.Helper()
		expect := map[Root]bool{}
		for link, path := range want {
			expect[Root{link, path}] = true
		}
		private := map[string]storepath.Path{fmt.Sprintf("{temp:%d}", os.Getpid()): p("leased")}
		for link, path := range proc {
			private[f.proc+link] = path
		}
		for link, path := range private {
			if censor {
				link = "{censored}"
			}
			expect[Root{link, path}] = true
		}
		for _, r := range f.roots(censor) {
			if !expect[r] {
				t.Errorf("censor=%v: %s -> %s is no root", censor, r.Link, r.Path)
			}
			delete(expect, r)
		}
		for r := range expect {
			t.Errorf("censor=%v: %s -> %s is missing", censor, r.Link, r.Path)
		}
	}
	check(false)
	check(true)

	if _, err := os.Lstat(gcroots + "/auto/stale"); !os.IsNotExist(err) {
		t.Errorf("the stale indirect root is still there: %v", err)
	}
	for _, link := range []string{"/kept", "/auto/file", "/unknown"} {
		if _, err := os.Lstat(gcroots + link); err != nil {
			t.Error(err)
		}
	}
	for _, m := range []string{
		"removing stale link from '" + gcroots + "/auto/stale' to '" + elsewhere + "/missing'",
		"skipping invalid root from '" + gcroots + "/unknown' to '" + f.full(p("unknown")) + "'",
		"cannot read potential root '" + gcroots + "/long'",
	} {
		if !strings.Contains(f.messages(), m) {
			t.Errorf("messages lack %q:\n%s", m, f.messages())
		}
	}

	var live []storepath.Path
	for _, m := range []map[string]storepath.Path{want, proc} {
		live = slices.AppendSeq(live, maps.Values(m))
	}
	f.collect(Request{Action: DeleteDead})
	f.wantValid(append(live, p("leased"))...)
}

func TestMissingFolders(t *testing.T) {
	f := newFixture(t)
	f.add("a")
	for _, dir := range []string{f.state, f.proc} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	f.collect(Request{Action: DeleteDead})
	f.wantValid()
}

func TestGcrootsMayBeALink(t *testing.T) {
	f := newFixture(t)
	a := f.add("a")
	link := f.root("x", a)
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(filepath.Dir(link), moved); err != nil {
		t.Fatal(err)
	}
	f.symlink(moved, filepath.Dir(link))
	f.collect(Request{Action: DeleteDead})
	f.wantValid(a)
}

// Whatever a client calls a root, the roots can be found afterwards.
func TestAddAnyIndirectRoot(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/etc/passwd", "", "relative/path", "..", "/a/../b", "/\xff\n", strings.Repeat("/x", 2000)} {
		if err := f.gc.AddIndirectRoot(path); err != nil {
			t.Errorf("%.20q: %v", path, err)
		}
	}
	for _, path := range []string{strings.Repeat("/x", 5000), "/nul\x00"} {
		if err := f.gc.AddIndirectRoot(path); err == nil {
			t.Errorf("%.20q was taken", path)
		}
	}
	f.roots(true)
	left, err := os.ReadDir(f.gc.autoDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if len(e.Name()) != 32 {
			t.Errorf("left in the folder of indirect roots: %s", e.Name())
		}
	}
}

func TestAddPermRoot(t *testing.T) {
	f := newFixture(t)
	a, b := f.add("a"), f.add("b")
	dir := t.TempDir()
	link := dir + "/new/folder/link"
	for _, p := range []storepath.Path{a, b} {
		got, err := f.gc.AddPermRoot(p, dir+"/new/./folder//link")
		if err != nil || got != link {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	f.write(dir+"/file", "")
	f.symlink("/etc/passwd", dir+"/foreign")
	for link, words := range map[string]string{
		dir + "/file":         "cannot create symlink '" + dir + "/file'; already exists",
		dir + "/foreign":      "already exists",
		f.full(a) + "/inside": "in the Nix store is forbidden",
		dir + "/file/below":   "not a directory",
	} {
		if _, err := f.gc.AddPermRoot(a, link); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, wanted %q", link, err, words)
		}
	}
	f.collect(Request{Action: DeleteDead})
	f.wantValid(b)
}

// A stale link that turns out not to be stale is put back, unless there is a
// newer one.
func TestRemoveStale(t *testing.T) {
	dir := t.TempDir()
	target, link := dir+"/target", dir+"/link"
	f := &fixture{t: t}
	f.symlink(target, link)
	f.write(target, "")
	if err := removeStale(link, target); err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(link); err != nil || got != target {
		t.Errorf("the link of a target that exists: %q, %v", got, err)
	}
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	if err := removeStale(link, target); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCreateUser(t *testing.T) {
	f := newFixture(t)
	for range 2 {
		if err := f.gc.CreateUser("alice", os.Getuid()); err != nil {
			t.Fatal(err)
		}
	}
	for _, what := range []string{"profiles", "gcroots"} {
		if st, err := os.Stat(filepath.Join(f.state, what, "per-user", "alice")); err != nil || !st.IsDir() {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "/etc"} {
		if err := f.gc.CreateUser(name, os.Getuid()); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
}

// The program that runs this test is a real process with a real environment.
func TestRealProcess(t *testing.T) {
	f := newFixture(t)
	f.gc.procDir = "/proc"
	env := f.add("real-environ")
	f.add("unused")
	child := exec.Command("cat")
	child.Env = []string{"E2E=" + f.full(env) + "/bin"}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer in.Close()
	roots := f.roots(false)
	if !slices.Contains(roots, Root{fmt.Sprintf("/proc/%d/environ", child.Process.Pid), env}) {
		t.Errorf("the environment of a process is no root: %v", roots)
	}
	f.collect(Request{Action: DeleteDead})
	f.wantValid(env)
}
