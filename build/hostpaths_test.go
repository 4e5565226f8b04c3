package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Sandbox paths that lie in one another work where there is something to mount
// on, and never write to the host's folders.
func TestSandboxPathsInOneAnother(t *testing.T) {
	l := newLab(t)
	host := l.path("host")
	for _, d := range []string{"dir/sub", "dir/empty", "other"} {
		if err := os.MkdirAll(filepath.Join(host, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{"dir/file": "outer", "dir/sub/x": "outer x", "other/x": "inner x", "single": "inner"}
	for name, contents := range files {
		if err := os.WriteFile(filepath.Join(host, name), []byte(contents), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "dir", "dir/link": "file", "dir/out": host + "/other"} {
		if err := os.Symlink(to, filepath.Join(host, link)); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, host)
	for _, c := range []struct {
		name  string
		paths []string
		want  string // of cat, or of the error
	}{
		{"file", []string{"/d/file=H/single", "/d=H/dir"}, "cat /d/file: inner"},
		{"folder", []string{"/d/sub=H/other", "/d=H/dir"}, "cat /d/sub/x: inner x"},
		{"three", []string{"/d/sub/x=H/single", "/d/sub=H/other", "/d=H/dir"}, "cat /d/sub/x: inner"},
		{"the same", []string{"H/dir", "H/dir/file", "H/dir/link"}, "cat H/dir/link: outer"},
		{"last counts", []string{"/f=H/dir/file", "/f=H/single"}, "cat /f: inner"},
		{"beside", []string{"/d=H/dir", "/d-x=H/single", "/dd/y=H/single"}, "cat /dd/y: inner"},
		{"missing", []string{"/d/new=H/single", "/d=H/dir"},
			"sandbox path '/d/new=H/single' lies in sandbox path '/d=H/dir', but 'H/dir/new' cannot be mounted on " +
				"(No such file or directory), and nothing is made in folders of this machine"},
		{"missing below", []string{"/d/a/b=H/other", "/d=H/dir"}, "'H/dir/a' cannot be mounted on"},
		{"on a link", []string{"/d/link=H/single", "/d=H/dir"}, "'H/dir/link' is a link, which cannot be mounted on"},
		{"through a link", []string{"/d/out/x=H/single", "/d=H/dir"}, "'H/dir/out' is a link, which cannot be mounted on"},
		{"in a link", []string{"/l/file=H/single", "/l=H/link"},
			"sandbox path '/l/file=H/single' lies in sandbox path '/l=H/link', but 'H/link' is a link to 'dir'; " +
				"name what it leads to instead"},
		{"in a file", []string{"/f/x=H/single", "/f=H/single"}, "'H/single' is no folder"},
		{"a link inside", []string{"/d/file=H/link", "/d=H/dir"}, "'H/link' is a link, which would have to be made"},
		{"kinds", []string{"/d/sub=H/single", "/d=H/dir"}, "only one of 'H/single' and 'H/dir/sub' is a folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l.set.SandboxPaths = []SandboxPath{{Target: "/bin/sh", Source: busybox}}
			for _, p := range c.paths {
				l.set.SandboxPaths = append(l.set.SandboxPaths, ParseSandboxPath(strings.ReplaceAll(p, "H", host)))
			}
			want := strings.ReplaceAll(c.want, "H", host)
			cat, contents, works := strings.Cut(strings.TrimPrefix(want, "cat "), ": ")
			works = works && strings.HasPrefix(want, "cat ")
			d := l.derive(recipe{name: strings.ReplaceAll(c.name, " ", "-"), script: "cat " + cat + " > $out"})
			res, sink := l.build(d)
			switch {
			case works && res.Status != Built:
				t.Errorf("%d %q\n%s", res.Status, res.ErrorMsg, sink.output())
			case works:
				if got := l.read(d.out("out"), ""); got != contents {
					t.Errorf("%q, want %q", got, contents)
				}
			case res.Status != MiscFailure || !strings.Contains(res.ErrorMsg, want):
				t.Errorf("%d %q, want %q", res.Status, res.ErrorMsg, want)
			default:
				if log := l.logs(d); len(log) > 0 {
					t.Errorf("a log of a builder that did not run: %v", log)
				}
			}
		})
	}
	if after := tree(t, host); after != before {
		t.Errorf("the host's folder changed:\n%s\nbefore:\n%s", after, before)
	}
}

// A builder that was not started leaves no log, which would be an empty one.
func TestNoLogOfFailedSetup(t *testing.T) {
	l := newLab(t)
	l.set.SandboxShmSize = "nonsense"
	d := l.derive(recipe{name: "shm", script: `touch $out`})
	if res, _ := l.build(d); res.Status != MiscFailure || !strings.Contains(res.ErrorMsg, "mount 'dev/shm'") {
		t.Errorf("%d %q", res.Status, res.ErrorMsg)
	}
	if log := l.logs(d); len(log) > 0 {
		t.Errorf("a log of a builder that did not run: %v", log)
	}
}

// logs are the files of a derivation's log.
func (l *lab) logs(d built) []string {
	l.Helper()
	base := d.path.Base()
	files, err := filepath.Glob(l.path("logs/drvs/" + base[:2] + "/" + base[2:] + "*"))
	if err != nil {
		l.Fatal(err)
	}
	return files
}

// tree is what lies in a folder, with contents and times of change.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		b.WriteString(p + " " + info.Mode().String() + " " + info.ModTime().String())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			b.Write(data)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
