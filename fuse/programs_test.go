package fuse

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/fuse/fusetest"
)

// diskTree makes a tree on the disk with all kinds of things in it.
func diskTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	contents := func(seed, size int) []byte {
		return bytes.Repeat([]byte(fmt.Sprintf("%d,", seed)), size)
	}
	for i := range 30 {
		sub := filepath.Join(dir, fmt.Sprintf("d%d/%d/e/f/g", i%7, i))
		must(t, os.MkdirAll(sub, 0o755))
		must(t, os.WriteFile(filepath.Join(sub, "file"), contents(i, i*i*40), 0o644))
		must(t, os.WriteFile(filepath.Join(sub, "same"), []byte("same"), 0o644))
		must(t, os.WriteFile(filepath.Join(sub, "run"), []byte("same"), 0o755))
		must(t, os.Symlink([]string{"same", "../g/same"}[i%2], filepath.Join(sub, "link")))
		must(t, os.MkdirAll(filepath.Join(sub, "equal", "empty"), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "large"), contents(1, 3<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "none"), nil, 0o644))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mountTree(t *testing.T, disk string) (shown string) {
	t.Helper()
	store := memory.New()
	n, err := fusetest.Import(context.Background(), store, disk)
	must(t, err)
	m := mountTest(t, Options{Castore: store, DistinctDirectories: true, ListRoot: true, AllowOther: true})
	m.add("tree", n)
	return filepath.Join(m.dir, "tree")
}

func TestShowsWhatIsOnDisk(t *testing.T) {
	disk := diskTree(t)
	shown := mountTree(t, disk)
	for range 3 {
		must(t, fusetest.Compare(shown, disk))
		forgetAll(t, filepath.Dir(shown))
	}
}

func TestGoSources(t *testing.T) {
	disk := filepath.Join(goRoot(t), "src", "cmd")
	must(t, fusetest.Compare(mountTree(t, disk), disk))
}

// TestCompareFindsDifferences makes sure that the comparison compares.
func TestCompareFindsDifferences(t *testing.T) {
	disk := diskTree(t)
	shown := mountTree(t, disk)
	must(t, fusetest.Compare(shown, disk))
	for what, change := range map[string]func() error{
		"contents":   func() error { return os.WriteFile(filepath.Join(disk, "d1/1/e/f/g/same"), []byte("tame"), 0o644) },
		"executable": func() error { return os.Chmod(filepath.Join(disk, "d2/2/e/f/g/same"), 0o755) },
		"missing":    func() error { return os.Remove(filepath.Join(disk, "d3/3/e/f/g/same")) },
		"target": func() error {
			link := filepath.Join(disk, "d4/4/e/f/g/link")
			if err := os.Remove(link); err != nil {
				return err
			}
			return os.Symlink("elsewhere", link)
		},
	} {
		must(t, change())
		if err := fusetest.Compare(shown, disk); err == nil {
			t.Errorf("a difference in %s is not found", what)
		}
		must(t, os.RemoveAll(disk))
		must(t, os.CopyFS(disk, os.DirFS(shown)))
		shownAgain := mountTree(t, disk)
		must(t, fusetest.Compare(shownAgain, disk))
		shown = shownAgain
	}
}

// TestPrograms runs what people run on a store and compares its output with what
// it says of the disk.
func TestPrograms(t *testing.T) {
	disk := diskTree(t)
	shown := mountTree(t, disk)
	copied := t.TempDir()
	for _, script := range []string{
		`find "$1" -printf '%P %y %l\n' | sort`,
		`find "$1" -type f -printf '%P %s\n' | sort`,
		`find "$1" -type f -executable -printf '%P\n' | sort`,
		`find "$1" -name g -prune -o -type d -printf '%P\n' | sort`,
		`cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum`,
		`cd "$1" && tar --sort=name --mode=0555 --owner=0 --group=0 --mtime=@1 -cf - . | sha256sum`,
		`cd "$1" && cat d*/*/e/f/g/file | cksum`,
		`cd "$1" && du -ab d1 | grep '/file$' | sort -k2`,
		`grep -rl 'same' "$1" | wc -l`,
		`cd "$1" && ls -1R`,
		`cd "$1" && ls -l d*/*/e/f/g | awk '/^-/ {print $5, $9} /^l/ {print $9, $10, $11}'`,
		`cd "$1/d2" && pwd -P | grep -c d2`,
		`sh "$1/none" && test -r "$1/large" && test -x "$1/d1/1/e/f/g/run" && test ! -x "$1/d1/1/e/f/g/same" && cat "$1/d1/8/e/f/g/link"`,
	} {
		have, want := run(t, script, shown), run(t, script, disk)
		if have != want || have == "" {
			t.Errorf("%s:\n%s\nwant:\n%s", script, have, want)
		}
	}
	for _, script := range []string{
		`cp -r "$1" "$2/cp"`,
		`cp -r "$1/d1/1/e/f/g/equal" "$1/d1/8/e/f/g/equal/empty" "$1/d2/2/e/f/g/equal/empty/." "$2"`,
		`cp -a "$1/d1/1/e/f/g" "$1/d1/8/e" "$2"`,
		`diff -r --no-dereference "$1" "$2/cp"`,
	} {
		run(t, script, shown, copied)
	}
	must(t, fusetest.Compare(shown, filepath.Join(copied, "cp")))
}

// TestTwoEqualDirectoriesAtOnce holds the working directory of a process in one
// of two equal directories while the other one is visited.
func TestTwoEqualDirectoriesAtOnce(t *testing.T) {
	shown := mountTree(t, diskTree(t))
	got := run(t, `cd "$1/d1/1/e/f/g/equal/empty" && ls "$1/d1/8/e/f/g/equal/empty" && ls -d "$1"/d*/*/e/f/g/equal/empty | wc -l && pwd -P && cd .. && pwd -P`, shown)
	want := "30\n" + shown + "/d1/1/e/f/g/equal/empty\n" + shown + "/d1/1/e/f/g/equal\n"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestExecutesFromMount(t *testing.T) {
	busy, err := exec.LookPath("true")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	b, err := os.ReadFile(busy)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "true"), b, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "script"), []byte("#!/bin/sh\necho run\n"), 0o755))
	shown := mountTree(t, dir)
	// A child of a child executes it: never this process.
	if got := run(t, `"$1/true" && "$1/script" && cd "$1" && ./script`, shown); got != "run\nrun\n" {
		t.Errorf("output %q", got)
	}
}

func run(t *testing.T, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("%s %q: %v: %s%s", script, args, err, out, &stderr)
	}
	return string(out)
}
