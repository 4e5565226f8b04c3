package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk puts the daemon's data on a disk of this many MiB.
func (w *world) smallDisk(mib int) {
	w.t.Helper()
	dir := w.data
	if underTest() == "nix" {
		dir = storeDir
	}
	must(w.t, os.MkdirAll(dir, 0o755))
	must(w.t, unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=755", mib)))
	w.t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			w.t.Errorf("unmount the small disk: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
}

// fill adds paths of one MiB until the disk is full, and returns the last one
// that went in.
func (w *world) fill(name string) object {
	w.t.Helper()
	c := w.dial(root)
	defer c.close()
	var last object
	for i := range 200 {
		o := bare(anyPath(fmt.Sprintf("%s-%d", name, i)), fileNAR(randomBytes(1<<20)))
		err := c.ask(opAddToStoreNar, o.request(true), framed(o.nar))
		if err != nil {
			w.wantFull(err)
			return last
		}
		last = o
	}
	w.t.Fatal("the disk does not get full")
	return last
}

// wantFull wants a proper error that says why.
func (w *world) wantFull(err error) {
	w.t.Helper()
	var said daemonError
	if !errors.As(err, &said) || !strings.Contains(strings.ToLower(string(said)), "no space left on device") {
		w.t.Errorf("on a full disk the answer is: %v", err)
	}
}

// A disk that is full in the middle of an add gives an error and loses
// nothing; it can be collected, before and after a restart.
func TestFullDisk(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := newWorld(t)
		w.smallDisk(48)
		w.start()
		kept := bare(anyPath("kept"), fileNAR(randomBytes(2<<20)))
		must(t, os.MkdirAll("/nix/var/nix/gcroots", 0o755))
		must(t, os.Symlink(kept.path, "/nix/var/nix/gcroots/kept"))
		c := w.dial(root)
		c.add(kept)

		large := bare(anyPath("too-large"), fileNAR(randomBytes(60<<20)))
		w.wantFull(c.ask(opAddToStoreNar, large.request(true), framed(large.nar)))
		if c.valid(large.path) {
			t.Error("a path that did not fit is valid")
		}
		c.close()
		w.verify()
		w.run(root, "nix-store --gc") // the half that did fit goes

		for _, restart := range []bool{false, true} {
			last := w.fill(fmt.Sprintf("filler-%v", restart))
			w.verify()
			d := w.dial(root)
			for _, o := range []object{kept, last} {
				if got := d.narHash(o.path, o.size); got != o.nhash {
					t.Errorf("on the full disk, %s has NAR hash %s, wanted %s", o.path, got, o.nhash)
				}
			}
			d.close()
			if restart {
				w.daemon.shutdown()
				w.start()
			}
			gone, err := w.dial(root).collect(2)
			if err != nil || len(gone) < 10 {
				t.Fatalf("a collection on the full disk deleted %d paths: %v", len(gone), err)
			}
			w.wantGone("what filled the disk", last.path)
			again := bare(anyPath(fmt.Sprintf("fits-again-%v", restart)), fileNAR(randomBytes(16<<20)))
			d = w.dial(root)
			d.add(again)
			if got := d.narHash(again.path, again.size); got != again.nhash {
				t.Errorf("after the collection, a new path has NAR hash %s, wanted %s", got, again.nhash)
			}
			d.close()
			w.eventually("the client's end is noticed", func() bool {
				_, err := w.dial(root).collect(3, again.path)
				return err == nil
			})
			w.verify()
		}
	})
}

// A hundred clients at once, and some real ones between them.
func TestManyClients(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		const clients = 100
		shared := source("shared", fileNAR(randomBytes(300_000)))
		conns := make([]*conn, clients)
		for i := range conns {
			u := root
			if i%2 == 1 {
				u = nobody
			}
			conns[i] = w.dial(u) // all are open before the first asks
		}
		var wg sync.WaitGroup
		for i, c := range conns {
			wg.Go(func() {
				own := source(fmt.Sprintf("own-%d", i), fileNAR(randomBytes(50_000)))
				for _, o := range []object{own, shared} {
					c.add(o)
					if got := c.narHash(o.path, o.size); got != o.nhash {
						t.Errorf("client %d: NAR hash %s, wanted %s", i, got, o.nhash)
					}
					if hash, size, ok := c.query(o.path); !ok || hash != o.nhash || size != o.size {
						t.Errorf("client %d: told of %s, %d, %v", i, hash, size, ok)
					}
				}
				c.call(opQueryAllValidPaths)
				if all := c.strs(); len(all) < 2 {
					t.Errorf("client %d: sees %d paths", i, len(all))
				}
			})
		}
		w.write("many.nix", `{ salt }: with import ./lib.nix; builtins.genList (i: sh "many-${toString i}-${salt}" "echo ${toString i} > $out") 10`)
		var builds []func() result
		for i := range 4 {
			builds = append(builds, w.background(nobody, fmt.Sprintf("nix-build --no-out-link $W/many.nix --argstr salt %d", i/2)))
		}
		wg.Wait()
		for _, wait := range builds {
			if r := wait(); r.code != 0 || len(lines(r.stdout)) != 10 {
				t.Errorf("a build beside the clients: %v", r)
			}
		}
		w.verify()
	})
}
