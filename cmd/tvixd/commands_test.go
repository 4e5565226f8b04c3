package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/daemon"
	"github.com/tvixd/tvixd/nar"
)

// world is a place for a store that no daemon serves; commands open it themselves.
type world struct {
	t   *testing.T
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, sub := range map[string]string{
		"NIX_STORE_DIR": "store", "NIX_STATE_DIR": "var/nix", "NIX_LOG_DIR": "var/log/nix", "NIX_CONF_DIR": "etc",
		"TVIXD_DATA_DIR": "data",
	} {
		t.Setenv(name, filepath.Join(dir, sub))
	}
	t.Setenv("NIX_DAEMON_SOCKET_PATH", "")
	t.Setenv("NIX_CONFIG", "build-users-group =")
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &world{t, dir}
}

// run runs a command and returns its output.
func (w *world) run(args ...string) (stdout string, err error) {
	w.t.Helper()
	var out bytes.Buffer
	app := newApp(&out, io.Discard)
	err = app.RunContext(w.t.Context(), flagsFirst(app, append([]string{"tvixd"}, args...)))
	return out.String(), err
}

func (w *world) must(args ...string) string {
	w.t.Helper()
	out, err := w.run(args...)
	if err != nil {
		w.t.Fatalf("tvixd %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSuffix(out, "\n")
}

func (w *world) write(name, contents string, mode os.FileMode) string {
	w.t.Helper()
	file := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(contents), mode); err != nil {
		w.t.Fatal(err)
	}
	return file
}

func TestCommandsOnTheDataFolder(t *testing.T) {
	w := newWorld(t)
	w.write("src/sub/file", "hello\n", 0o644)
	w.write("src/run", "#!/bin/sh\n", 0o755)
	if err := os.Symlink("sub/file", filepath.Join(w.dir, "src/link")); err != nil {
		t.Fatal(err)
	}
	p := w.must("import", filepath.Join(w.dir, "src"))
	if filepath.Dir(p) != filepath.Join(w.dir, "store") || !strings.HasSuffix(p, "-src") {
		t.Fatalf("imported as %q", p)
	}

	want := "l            0 link -> sub/file\nx           10 run\nd            0 sub"
	if got := w.must("ls", p); got != want {
		t.Errorf("ls:\n%s\nwant\n%s", got, want)
	}
	if got := w.must("ls", p+"/sub", "--json"); got != `[{"name":"file","type":"regular","size":6}]` {
		t.Errorf("ls --json: %s", got)
	}
	if got := w.must("cat", p+"/sub/file"); got != "hello" {
		t.Errorf("cat: %q", got)
	}
	var infos []pathDescription
	if err := json.Unmarshal([]byte(w.must("path-info", "--json", "-S", p)), &infos); err != nil {
		t.Fatal(err)
	}
	if len(infos) != 1 || infos[0].Path != p || infos[0].ClosureSize != infos[0].NarSize || infos[0].CA == "" {
		t.Errorf("path-info: %+v", infos)
	}
	if got := w.must("path-info", "--all"); !strings.HasPrefix(got, "StorePath: "+p+"\nNarHash: sha256:") {
		t.Errorf("path-info --all: %s", got)
	}
	var stats daemon.Stats
	if err := json.Unmarshal([]byte(w.must("stats", "--json")), &stats); err != nil || stats.Paths != 1 {
		t.Errorf("stats: %+v, %v", stats, err)
	}
	if got := w.must("stats"); !strings.HasPrefix(got, "paths      1,") {
		t.Errorf("stats: %s", got)
	}
	w.must("verify")
	w.must("verify", "--fast")
	w.must("verify", "--check-contents")
}

func TestExportAndImport(t *testing.T) {
	w := newWorld(t)
	a := w.must("import", w.write("a", "contents of a", 0o644))
	x := w.must("import", w.write("x", "executable", 0o755))
	if got := w.must("ls", x); !strings.HasPrefix(got, "x ") {
		t.Errorf("the bit was lost: %s", got)
	}

	export, nar := w.must("export", a, x), w.must("export", "--nar", a)
	stream, archive := w.write("export", export, 0o644), w.write("archive", nar, 0o644)
	out := filepath.Join(w.dir, "out")
	if got := w.must("export", "--to", out, a); got != filepath.Join(out, filepath.Base(a)) {
		t.Errorf("exported to %s", got)
	}
	if text, err := os.ReadFile(filepath.Join(out, filepath.Base(a))); err != nil || string(text) != "contents of a" {
		t.Errorf("exported %q, %v", text, err)
	}
	if got := w.must("gc"); got != a+"\n"+x && got != x+"\n"+a {
		t.Errorf("gc deleted %s", got)
	}

	if got := w.must("import", stream); got != a+"\n"+x {
		t.Errorf("imported %s, want %s and %s", got, a, x)
	}
	again := w.must("import", "--name", "a", archive)
	if got := w.must("cat", again); got != "contents of a" {
		t.Errorf("an archive holds %q", got)
	}
	raw := w.must("import", "--raw", archive)
	if got := w.must("cat", raw); got != nar {
		t.Error("--raw took the archive apart")
	}
	for what, contents := range map[string]string{
		"cut short": export[:len(export)/2], "with another end": export[:len(export)-8] + "\x07\x00\x00\x00\x00\x00\x00\x00",
		"of another store": strings.ReplaceAll(export, w.dir+"/store", w.dir+"/stare"),
	} {
		if _, err := w.run("import", w.write("bad", contents, 0o644)); err == nil {
			t.Errorf("an export %s was imported", what)
		}
	}
	w.must("verify", "--check-contents")
}

func TestCollection(t *testing.T) {
	w := newWorld(t)
	a := w.must("import", w.write("a", "a", 0o644))
	b := w.must("import", w.write("b", "b", 0o644))
	link := filepath.Join(w.dir, "var/nix/gcroots/mine")
	if err := os.Symlink(a, link); err != nil {
		t.Fatal(err)
	}
	if got := w.must("roots"); got != link+" -> "+a {
		t.Errorf("roots: %s", got)
	}
	if got := w.must("roots", b); got != "" {
		t.Errorf("roots of what has none: %s", got)
	}
	if got := w.must("roots", a, "--json"); got != `[{"link":"`+link+`","path":"`+a+`"}]` {
		t.Errorf("roots --json: %s", got)
	}
	if got := w.must("gc", "--print-dead"); got != b {
		t.Errorf("dead: %s", got)
	}
	if got := w.must("gc", "--print-live"); got != a {
		t.Errorf("live: %s", got)
	}
	if _, err := w.run("gc", a); err == nil || !strings.Contains(err.Error(), "still alive") {
		t.Errorf("delete what is alive: %v", err)
	}
	var result struct {
		Paths      []string
		BytesFreed uint64
	}
	if err := json.Unmarshal([]byte(w.must("gc", "--json")), &result); err != nil || !slices.Equal(result.Paths, []string{b}) {
		t.Errorf("gc: %+v, %v", result, err)
	}
	if _, err := w.run("path-info", b); err == nil || !strings.Contains(err.Error(), "is not valid") {
		t.Errorf("what was deleted: %v", err)
	}
}

func TestWrongUsage(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"nonsense"}, 2, "is no command"},
		{[]string{"gc", "--nonsense"}, 2, "see 'tvixd help gc'"},
		{[]string{"ls"}, 2, "'tvixd ls' needs PATH"},
		{[]string{"ls", "a", "b"}, 2, "unexpected argument 'b'"},
		{[]string{"cat", "/etc/passwd"}, 1, "is not in the Nix store"},
		{[]string{"path-info"}, 2, "needs a PATH or --all"},
		{[]string{"gc", "--print-dead", "--print-live"}, 2, "exclude each other"},
		{[]string{"import", "absent"}, 1, "no such file"},
		{[]string{"daemon", "--force-trusted", "--force-untrusted"}, 2, "exclude each other"},
		{[]string{"daemon", "extra"}, 2, "unexpected argument"},
		{[]string{"daemon", "--log-level", "loud"}, 2, "log level 'loud'"},
		{[]string{"daemon", "--data-dir", os.Getenv("NIX_STORE_DIR") + "/data"}, 1, "lies in the store folder"},
		{[]string{"stats", "--data-dir", filepath.Join(w.dir, "absent")}, 1, "no daemon listens on"},
		{[]string{"config", "nonsense"}, 1, "could not find setting"},
	} {
		_, err := w.run(tc.args...)
		if err == nil || !strings.Contains(err.Error(), tc.want) || exitCode(err) != tc.status {
			t.Errorf("%q: %v, status %d; want %q, %d", tc.args, err, exitCode(err), tc.want, tc.status)
		}
	}
}

func TestPoorArguments(t *testing.T) {
	w := newWorld(t)
	p := w.must("import", w.write("tree/file", "contents", 0o644)[:len(w.dir)+len("/tree")])
	for _, tc := range []struct{ args, want string }{
		{"cat " + p, "path '" + p + "' is not a regular file"},
		{"cat " + p + "/absent", "does not exist"},
		{"ls " + p + "/absent", "does not exist"},
		{"help bogus", "bogus"},
	} {
		if _, err := w.run(strings.Fields(tc.args)...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("tvixd %s: %v, want %q", tc.args, err, tc.want)
		}
	}

	// A folder that is looked at through the mount.
	dir := mountedTree(filepath.Join(w.dir, "tree"))
	if err := dir.cat("", &bytes.Buffer{}); err == nil || err.Error() != "path '"+string(dir)+"' is not a regular file" {
		t.Errorf("cat of a folder: %v", err)
	}
	if _, err := dir.list("/absent"); err == nil || err.Error() != "path '"+string(dir)+"/absent' does not exist" {
		t.Errorf("ls of nothing: %v", err)
	}
}

// TestImportFromInput checks that neither a plain file nor an archive gets a name by accident.
func TestImportFromInput(t *testing.T) {
	w := newWorld(t)
	var archive bytes.Buffer
	if err := nar.DumpPath(&archive, w.write("f", "contents", 0o644)); err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	defer func() { os.Stdin = stdin }()
	for _, input := range []string{"contents", archive.String()} {
		for _, name := range []string{"", "named"} {
			file, err := os.Open(w.write("input", input, 0o644))
			if err != nil {
				t.Fatal(err)
			}
			os.Stdin = file
			out, err := w.run("import", "--name", name, "-")
			file.Close()
			if name == "" && (err == nil || !strings.Contains(err.Error(), "needs a name: --name")) {
				t.Errorf("without a name: %q, %v", out, err)
			}
			if name != "" && (err != nil || !strings.HasSuffix(out, "-named\n")) {
				t.Errorf("with a name: %q, %v", out, err)
			}
		}
	}
}

func TestVerifyReadsContents(t *testing.T) {
	w := newWorld(t)
	w.must("import", w.write("file", strings.Repeat("contents", 1000), 0o644))
	packs, err := filepath.Glob(filepath.Join(w.dir, "data/castore/packs/*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("packs: %q, %v", packs, err)
	}
	for _, pack := range packs {
		data, err := os.ReadFile(pack)
		if err != nil {
			t.Fatal(err)
		}
		// Past the header of the pack and of the first record: in its contents.
		for i := len(data) / 2; i < len(data); i++ {
			data[i] ^= 0xff
		}
		if err := os.WriteFile(pack, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.run("verify"); err == nil {
		t.Error("verify does not see damaged contents")
	}
}

func TestDataFolderIsForOne(t *testing.T) {
	w := newWorld(t)
	lock, err := lockData(os.Getenv("TVIXD_DATA_DIR"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.run("stats")
	if !errors.Is(err, errDataInUse) {
		t.Errorf("a second one: %v", err)
	}
	lock.Close()
	w.must("stats")
}

func TestConfig(t *testing.T) {
	w := newWorld(t)
	w.write("etc/nix.conf", "max-jobs = 7\nfrobnicate = 1\n", 0o644)
	if got := w.must("config", "max-jobs", "build-users-group"); got != "7\n" {
		t.Errorf("config: %q", got)
	}
	if got := w.must("config"); !strings.Contains(got, "\nmax-jobs = 7\n") {
		t.Errorf("config: %s", got)
	}
	if got := w.must("config", "--json"); !json.Valid([]byte(got)) {
		t.Errorf("config --json: %s", got)
	}
	w.write("etc/nix.conf", "max-jobs = x\n", 0o644)
	if _, err := w.run("config"); err == nil || err.Error() != "configuration setting 'max-jobs' should be 'auto' or an integer" {
		t.Errorf("a bad value: %v", err)
	}
	if _, err := w.run("daemon"); err == nil || !strings.Contains(err.Error(), "'auto' or an integer") {
		t.Errorf("the daemon with a bad value: %v", err)
	}
}

func TestFlagsFirst(t *testing.T) {
	app := newApp(os.Stdout, os.Stderr)
	for in, want := range map[string]string{
		"tvixd":                                 "tvixd",
		"tvixd --version":                       "tvixd --version",
		"tvixd nonsense a --b":                  "tvixd nonsense a --b",
		"tvixd ls a --json":                     "tvixd ls --json -- a",
		"tvixd ls a --data-dir d b":             "tvixd ls --data-dir d -- a b",
		"tvixd ls a --data-dir=d b":             "tvixd ls --data-dir=d -- a b",
		"tvixd ls -- --json":                    "tvixd ls -- --json",
		"tvixd import --name n - --raw":         "tvixd import --name n --raw -- -",
		"tvixd path-info a -S -r --data-dir":    "tvixd path-info -S -r --data-dir -- a",
		"tvixd gc --max-freed 5 a --print-live": "tvixd gc --max-freed 5 --print-live -- a",
	} {
		if got := strings.Join(flagsFirst(app, strings.Fields(in)), " "); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestMountedType(t *testing.T) {
	if got := mountedType("/proc"); got != "proc" {
		t.Errorf("/proc is %q", got)
	}
	if got := mountedType(t.TempDir()); got != "" {
		t.Errorf("a plain folder is %q", got)
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 30: "1.0 GiB", 1<<64 - 1: "16.0 EiB",
	} {
		if got := humanBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestEveryCommandIsDescribed(t *testing.T) {
	for _, c := range newApp(os.Stdout, os.Stderr).Commands {
		if c.Usage == "" || len(c.Description) < 60 {
			t.Errorf("%s has no help", c.Name)
		}
		for line := range strings.SplitSeq(c.Description, "\n") {
			if len([]rune(line)) > 80 {
				t.Errorf("%s: a line of its help is too long: %s", c.Name, line)
			}
		}
	}
}
