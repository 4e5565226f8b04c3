package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// has tells whether a path is valid and shown.
func (w *world) has(path string) bool {
	w.t.Helper()
	c := w.dial(root)
	defer c.close()
	valid := c.valid(path)
	_, err := os.Lstat(path)
	if valid != (err == nil) && underTest() == "tvixd" { // nix-daemon leaves halves about
		w.t.Errorf("%s: valid %v, lstat says %v", path, valid, err)
	}
	return valid
}

func (w *world) wantAlive(what, path string) {
	w.t.Helper()
	if !w.has(path) {
		w.t.Errorf("%s was collected", what)
	}
}

func (w *world) wantGone(what, path string) {
	w.t.Helper()
	if w.has(path) {
		w.t.Errorf("%s was not collected", what)
	}
}

// TestCollectWithRoots has a root of each kind.
func TestCollectWithRoots(t *testing.T) {
	isolated(t, func(t *testing.T) {
		forBoth(t, func(w *world, u user) {
			add := func(name string) string {
				return w.run(u, "mkdir "+name+"; echo "+name+" > "+name+"/file; nix-store --add "+name)
			}
			w.write("x.nix", `with import ./lib.nix; shWith { dep = sh "dep" "echo dep > $out"; } "linked" "echo $dep > $out"`)
			linked := w.run(u, "nix-build $W/x.nix -o link")
			dep := w.run(u, "cat "+linked)
			direct, profile, running, opened, environ, dead :=
				add("direct"), add("profile"), add("running"), add("opened"), add("environ"), add("dead")
			w.run(root, "ln -s "+direct+" /nix/var/nix/gcroots/direct")
			w.run(root, "ln -s "+profile+"/file /nix/var/nix/profiles/system-1-link")

			// A process that has its folder, a file and a variable in the store.
			hold := exec.Command("sleep", "1000")
			hold.Dir = running
			hold.Env = append(os.Environ(), "HELD="+environ+"/file")
			file, err := os.Open(opened + "/file")
			must(w.t, err)
			hold.ExtraFiles = []*os.File{file}
			must(w.t, hold.Start())
			file.Close()
			defer hold.Wait()
			defer hold.Process.Kill()
			// Until the child has become sleep, its folder is another.
			w.eventually("the process runs", func() bool { return asleep(hold) })

			roots := w.run(root, "nix-store --gc --print-roots")
			for _, want := range []string{
				w.home(u) + "/link -> " + linked, "/nix/var/nix/gcroots/direct -> " + direct,
				"/nix/var/nix/profiles/system-1-link -> " + profile,
				fmt.Sprintf("/proc/%d/cwd -> %s", hold.Process.Pid, running),
				fmt.Sprintf("/proc/%d/fd/3 -> %s", hold.Process.Pid, opened),
				fmt.Sprintf("/proc/%d/environ -> %s", hold.Process.Pid, environ),
			} {
				if !slices.Contains(lines(roots), want) {
					w.t.Errorf("roots lack %s:\n%s", want, roots)
				}
			}
			censored := w.run(nobody, "nix-store --gc --print-roots")
			if !strings.Contains(censored, "{censored} -> "+running) || strings.Contains(censored, "/proc/") {
				w.t.Errorf("roots as shown to an ordinary user:\n%s", censored)
			}

			if got := lines(w.run(u, "nix-store --gc --print-dead 2>/dev/null")); !slices.Contains(got, dead) || slices.Contains(got, linked) {
				w.t.Errorf("dead paths: %s", got)
			}
			if got := lines(w.run(u, "nix-store --gc --print-live 2>/dev/null")); slices.Contains(got, dead) || !slices.Contains(got, dep) {
				w.t.Errorf("live paths: %s", got)
			}
			w.refused(u, "nix-store --delete "+dep, "Cannot delete path '"+dep+"' since it is still alive")
			if r := w.try(u, "nix-store --gc"); r.code != 0 || !strings.Contains(r.stdout+r.stderr, "store paths deleted") ||
				!strings.Contains(r.stderr, "deleting '"+dead+"'") {
				w.t.Errorf("the collection says:\n%v", r)
			}
			w.wantGone("a dead path", dead)
			for what, path := range map[string]string{
				"a build's result": linked, "its dependency": dep, "a direct root": direct, "a profile": profile,
				"a working folder": running, "an open file": opened, "an environment": environ,
			} {
				w.wantAlive(what, path)
			}
			w.run(u, "rm link")
			hold.Process.Kill()
			hold.Wait()
			if got := w.run(u, "nix-store --delete "+linked+" 2>/dev/null || true"); !strings.Contains(got, "1 store paths deleted") {
				w.t.Errorf("deleting one path: %s", got)
			}
			w.wantGone("the unrooted result", linked)
			w.run(u, "nix-collect-garbage")
			w.wantGone("the unrooted dependency", dep)
			w.wantGone("the forgotten environment", environ)
			w.wantAlive("a direct root", direct)
			if left, _ := os.ReadDir("/nix/var/nix/gcroots/auto"); len(left) != 0 {
				w.t.Errorf("stale indirect roots are left: %v", left)
			}
			w.verify()
		})
	})
}

func asleep(c *exec.Cmd) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Process.Pid))
	return err == nil && filepath.Base(exe) == "sleep"
}

// What a client was told stays while its connection lives, whatever is
// collected beside it; and what it rooted stays afterwards.
func TestCollectBesideAConnection(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		a, b := w.dial(nobody), w.dial(nobody)
		kept := source("kept", fileNAR([]byte("kept")))
		loose := source("loose", fileNAR([]byte("loose")))
		a.add(kept)
		b.add(loose)
		if err := b.ask(opAddTempRoot, str(kept.path)); err != nil {
			t.Error(err)
		}
		b.u64()
		a.close()
		w.run(root, "nix-store --gc")
		w.wantAlive("a path added over a live connection", loose.path)
		w.wantAlive("a temporary root", kept.path)
		if _, err := w.dial(root).collect(3, kept.path); err == nil || !strings.Contains(err.Error(), "still alive") {
			t.Errorf("deleting a leased path: %v", err)
		}
		must(t, os.Symlink(kept.path, "/nix/var/nix/gcroots/kept"))
		b.close()
		// nix-daemon notices the end of a client a little later.
		w.eventually("the loose path is collected", func() bool {
			w.run(root, "nix-store --gc")
			return !w.has(loose.path)
		})
		w.wantAlive("a path that was rooted in time", kept.path)
		w.verify()
	})
}

func TestCollectGarbageRequests(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		c := w.dial(root)
		o := source("mine", fileNAR([]byte("mine")))
		must(t, os.Symlink(o.path, "/nix/var/nix/gcroots/mine"))
		c.add(o)
		gc := func(action, ignore uint64, paths ...string) field {
			return slices.Concat(u64(action), strs(paths...), u64(ignore), u64(1<<63), u64(0), u64(0), u64(0))
		}
		c.refused(opCollectGarbage, []string{"ignore liveness"}, gc(3, 1, o.path))
		w.dial(nobody).refused(opCollectGarbage, []string{"ignore liveness"}, gc(3, 1, o.path))
		c.refused(opCollectGarbage, []string{"still alive"}, gc(3, 0, o.path))
		if gone, err := c.collect(3, anyPath("absent")); err != nil || len(gone) != 1 {
			t.Errorf("deleting an absent path: %v, %v", gone, err)
		}
		// What the roots lead to is never asked; what they are is free.
		for _, root := range []string{"/etc/passwd", "relative", "", "/nix/store", "/nix/store/x"} {
			d := w.dial(nobody)
			d.call(opAddIndirectRoot, str(root))
			d.u64()
			d.call(opFindRoots)
			for n := d.u64(); n > 0; n-- {
				d.str()
				d.str()
			}
			d.close()
		}
		if live, err := c.collect(0); err != nil || !slices.Contains(live, o.path) {
			t.Errorf("live paths: %v, %v", live, err)
		}
		// An unknown action may be refused in any way, but does nothing.
		d := w.dial(root)
		d.op(opCollectGarbage, gc(77, 0))
		if err := d.reply(); err == nil {
			d.strs()
		}
		w.wantAlive("a rooted path", o.path)
		w.verify()
	})
}

// A build that runs while collections do loses nothing that it needs.
func TestCollectBesideABuild(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("slow.nix", `with import ./lib.nix; let one = sh "one" "echo one > $out"; in
			shWith { inherit one; two = shWith { inherit one; } "two" "echo ready > /e2e/ready; while ! b test -e /e2e/go; do b sleep 0.05; done; b cat $one > $out"; }
			"three" "b cat $one $two > $out"`)
		// Rooted before the client leaves.
		build := w.background(nobody, "nix-build -o slow $W/slow.nix >&2; cat slow")
		w.eventually("the build runs", func() bool { return exists(w.shared + "/ready") })
		for range 3 {
			w.run(root, "nix-store --gc")
		}
		must(t, os.WriteFile(w.shared+"/go", nil, 0o644))
		for range 3 {
			w.run(root, "nix-store --gc")
		}
		if r := build(); r.code != 0 || r.stdout != "one\none" {
			t.Errorf("the build: %v", r)
		}
		w.verify()
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// background starts a script of u; the returned function waits for its end.
func (w *world) background(u user, script string) func() result {
	done := make(chan result, 1)
	go func() {
		r, err := w.attempt(u, script)
		if err != nil {
			r.stderr += "\n" + err.Error()
			r.code = -1
		}
		done <- r
	}()
	return func() result {
		w.t.Helper()
		select {
		case r := <-done:
			return r
		case <-time.After(2 * patience):
			w.t.Fatalf("does not end: %s", script)
			return result{}
		}
	}
}
