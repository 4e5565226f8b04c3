package e2e

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
)

// A refusal is told properly, the connection goes on, nothing becomes valid or
// visible, and the store verifies clean.
func (w *world) wantRefused(t *testing.T, o object, words ...string) {
	t.Helper()
	for _, how := range []string{"AddToStoreNar", "AddMultipleToStore"} {
		c := w.dial(root)
		c.t = t
		if how == "AddToStoreNar" {
			c.refused(opAddToStoreNar, words, o.request(true), framed(o.nar))
		} else {
			items := slices.Concat(u64(1), o.info(), field(o.nar))
			c.refused(opAddMultiple, words, u64(0), u64(1), framed(items))
		}
		if underTest() == "nix" {
			c = w.dial(root) // nix-daemon may close it
		}
		if c.valid(o.path) {
			t.Errorf("%s: the refused path is valid", how)
		}
		c.close()
	}
	if underTest() == "tvixd" && exists(o.path) {
		t.Error("the refused path is shown")
	}
	w.verify()
}

func TestBadArchives(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		file := func(contents string) []string {
			return []string{"(", "type", "regular", "contents", contents, ")"}
		}
		entry := func(name string) []string {
			return append(append([]string{"entry", "(", "name", name, "node"}, file("x")...), ")")
		}
		dir := func(entries ...[]string) []byte {
			return narOf(append(append([]string{"(", "type", "directory"}, slices.Concat(entries...)...), ")")...)
		}
		deep := slices.Concat(
			slices.Repeat([]string{"(", "type", "directory", "entry", "(", "name", "d", "node"}, 10_000),
			file("x"), slices.Repeat([]string{")", ")"}, 10_000))
		badPadding := bytes.Clone(fileNAR([]byte("x")))
		badPadding[len(badPadding)-len(str(")"))-1] = 1
		good := fileNAR([]byte("good"))

		for _, c := range []struct {
			name    string
			nar     []byte
			lenient bool // nix-daemon 2.8 takes it
		}{
			{"unsorted", dir(entry("b"), entry("a")), true},
			{"duplicate", dir(entry("a"), entry("a")), false},
			{"dot", dir(entry(".")), false},
			{"dotdot", dir(entry("..")), false},
			{"slash", dir(entry("a/b")), false},
			{"empty-name", dir(entry("")), false},
			{"nul-in-name", dir(entry("a\x00b")), false},
			{"long-name", dir(entry(strings.Repeat("n", 256))), false},
			{"nul-in-target", narOf("(", "type", "symlink", "target", "a\x00b", ")"), true},
			{"empty-target", narOf("(", "type", "symlink", "target", "", ")"), false},
			{"no-target", narOf("(", "type", "symlink", ")"), true},
			{"long-target", narOf("(", "type", "symlink", "target", strings.Repeat("t", 4096), ")"), false},
			{"two-contents", narOf("(", "type", "regular", "contents", "a", "contents", "b", ")"), true},
			{"no-type", narOf("(", ")"), true},
			{"unknown-type", narOf("(", "type", "fifo", ")"), false},
			{"no-node", dir([]string{"entry", "(", "name", "a", ")"}), true},
			{"two-nodes", dir([]string{"entry", "(", "name", "a", "node", "(", "type", "directory", ")", "node", "(", "type", "directory", ")", ")"}), true},
			{"deep", narOf(deep...), true},
			{"padding", badPadding, false},
			{"magic", append(str("nix-archive-2"), good[len(str("nix-archive-1")):]...), false},
			{"no-archive", []byte("these are just some bytes, not an archive"), false},
		} {
			t.Run(c.name, func(t *testing.T) {
				if c.lenient && underTest() == "nix" {
					t.Skip("nix-daemon 2.8 lets it through")
				}
				w.wantRefused(t, bare(anyPath("bad-"+c.name), c.nar), "")
			})
		}
	})
}

func TestWrongClaims(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		nar := fileNAR([]byte("some contents"))
		claim := func(name string, change func(o *object)) object {
			o := bare(anyPath(name), nar)
			change(&o)
			return o
		}
		for _, c := range []struct {
			words  []string
			object object
		}{
			{[]string{"hash mismatch importing path"}, claim("hash", func(o *object) { o.nhash = strings.Repeat("0", 64) })},
			{[]string{"size mismatch importing path"}, claim("size", func(o *object) { o.size++ })},
			{[]string{"size mismatch importing path"}, claim("size-0", func(o *object) { o.size = 0 })},
			{[]string{"is not valid"}, claim("reference", func(o *object) { o.refs = []string{anyPath("never-added")} })},
			{[]string{"is not in the Nix store", "not a store path"}, claim("reference-elsewhere", func(o *object) {
				o.refs = []string{"/other/store/" + strings.TrimPrefix(anyPath("x"), storeDir+"/")}
			})},
			{[]string{"ca hash mismatch importing path", "claims to be content-addressed but isn't"}, claim("ca", func(o *object) {
				o.ca = "fixed:r:sha256:" + strings.Repeat("0", 52)
			})},
			{[]string{""}, claim("ca-garbage", func(o *object) { o.ca = "fixed:what:ever" })},
			{[]string{""}, claim("hash-garbage", func(o *object) { o.nhash = "zz" })},
		} {
			t.Run(c.object.path[len(storeDir)+34:], func(t *testing.T) { w.wantRefused(t, c.object, c.words...) })
		}
	})
}

// An archive that ends too early ends with its frames, or with the client.
func TestCutShort(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		o := bare(anyPath("cut"), fileNAR(bytes.Repeat([]byte("0123456789abcdef"), 1<<12)))
		whole := o.nar
		for _, n := range []int{0, 8, 40, 1000, len(whole) - 8} {
			o.nar = whole[:n]
			w.wantRefused(t, o, "")
			// The client goes away in the middle of a frame.
			c := w.dial(root)
			f := framed(whole)
			c.op(opAddToStoreNar, o.request(true), f[:n])
			c.close()
		}
		w.verify()
		o.nar = whole
		w.dial(root).add(o)
		w.wantAlive("the whole of it", o.path)
		w.verify()
	})
}

// Claims of 2^63 and similar bytes are refused and cost no memory.
func TestHugeClaims(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		if underTest() == "nix" {
			t.Skip("nix-daemon 2.8 allocates what a client claims")
		}
		for _, size := range []uint64{1 << 32, 1 << 63, 1<<64 - 1, 1<<64 - 8} {
			for name, request := range map[string]field{
				"string":     slices.Concat(u64(opIsValidPath), u64(size)),
				"list":       slices.Concat(u64(31), u64(size)),
				"frame":      slices.Concat(u64(opAddToStoreNar), bare(anyPath("x"), nil).request(true), u64(size)),
				"nar string": slices.Concat(u64(opAddToStoreNar), bare(anyPath("x"), nil).request(true), framed(slices.Concat(str("nix-archive-1"), u64(size)))),
				"settings":   slices.Concat(u64(opSetOptions), slices.Repeat(u64(0), 12), u64(size)),
				"nar file": slices.Concat(u64(opAddToStoreNar), bare(anyPath("x"), nil).request(true),
					framed(slices.Concat(narOf("(", "type", "regular", "contents"), u64(size)))),
				"items": slices.Concat(u64(opAddMultiple), u64(0), u64(1), framed(u64(size))),
			} {
				c := w.dial(root)
				c.send(request)
				if err := c.reply(); err == nil {
					t.Errorf("a %s of %d bytes was taken", name, size)
				} else if _, told := err.(daemonError); !told {
					t.Logf("a %s of %d bytes: %v", name, size, err)
				}
				c.close()
			}
		}
		if rss := w.daemon.peakMemory(); rss > 512<<10 {
			t.Errorf("the daemon took %d KiB", rss)
		}
		w.verify()
	})
}

func TestBadProtocol(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		t.Run("unknown operation", func(t *testing.T) {
			for _, op := range []uint64{0, 2, 99, 1 << 20, 1<<64 - 1} {
				c := w.dial(root)
				c.t = t
				c.op(op)
				if err := c.reply(); err == nil {
					t.Errorf("operation %d was done", op)
				}
				c.close()
			}
		})
		t.Run("hello", func(t *testing.T) {
			for name, hello := range map[string]field{
				"magic": slices.Concat(u64(0x12345678), u64(wireVersion)), "old": slices.Concat(u64(0x6e697863), u64(0)),
				"text": field("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), "nothing": nil, "half": u64(0x6e697863)[:4],
			} {
				c := w.connect(root)
				c.t = t
				c.send(hello)
				if name == "nothing" || name == "half" {
					c.close()
					continue
				}
				c.closed()
				c.close()
			}
		})
		t.Run("paths", func(t *testing.T) {
			for _, path := range []string{
				"", "x", "/etc/passwd", "/nix/store", "/nix/store/", "/nix/store/..", "/nix/store/x",
				"/other/store/" + anyPath("x")[len(storeDir)+1:], storeDir + "/../etc/passwd",
				storeDir + "/" + strings.Repeat("e", 32) + "-x", anyPath("x") + "\x00", anyPath("x")[:len(storeDir)+33],
				storeDir + "/" + strings.Repeat("0", 32) + "-" + strings.Repeat("n", 212), strings.Repeat("/", 10000),
			} {
				c := w.dial(root)
				c.t = t
				if path != "" || underTest() == "tvixd" { // nix-daemon 2.8 aborts
					c.refused(opIsValidPath, []string{""}, str(path))
				}
				c.close()
			}
			for _, same := range []string{"//nix/store/", "/nix/./store//", "/nix/store/"} {
				c := w.dial(root)
				c.t = t
				// Cleaned or refused, but never a crash.
				if err := c.ask(opIsValidPath, str(same+anyPath("x")[len(storeDir)+1:]+"/")); err == nil && c.u64() != 0 {
					t.Errorf("%s: valid", same)
				}
				c.close()
			}
		})
		w.verify()
	})
}

// A client that goes away in the middle of a large add leaves nothing behind,
// and a second one adds the same path.
func TestVanishInAdd(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		o := bare(anyPath("large"), fileNAR(randomBytes(8<<20)))
		for _, part := range []int{1, 100_000, len(o.nar) / 2} {
			c := w.dial(root)
			c.op(opAddToStoreNar, o.request(true), framed(o.nar)[:part])
			c.close()
			if w.has(o.path) {
				t.Error("half a path is valid")
			}
		}
		w.verify()
		w.dial(root).add(o)
		w.wantAlive("the whole of it", o.path)
		w.verify()
	})
}

// A client that goes away in the middle of a build ends the builder.
func TestVanishInBuild(t *testing.T) {
	isolated(t, func(t *testing.T) {
		for _, how := range []string{"INT", "KILL"} {
			t.Run(how, func(t *testing.T) {
				w := started(t)
				w.write("long.nix", `(import ./lib.nix).sh "long" "if b test -e /e2e/again; then echo again > $out; exit; fi; echo > /e2e/ready; b sleep 987654"`)
				build := w.background(nobody, "exec nix-build --no-out-link $W/long.nix")
				w.eventually("the builder sleeps", func() bool { return exists(w.shared+"/ready") && running("sleep 987654") })
				for _, p := range processes() {
					if strings.HasPrefix(p.command, "nix-build ") {
						w.run(root, "kill -"+how+" "+p.pidString())
					}
				}
				if r := build(); r.code == 0 {
					t.Errorf("the killed client: %v", r)
				}
				w.eventually("the builder has ended", func() bool { return !running("sleep 987654") })
				must(t, os.WriteFile(w.shared+"/again", nil, 0o644))
				if got := w.built(nobody, "$W/long.nix"); got != "again" {
					t.Errorf("the build afterwards gave %q", got)
				}
				w.verify()
			})
		}
	})
}

// A client that says nothing, and one that does not read, hinder nobody.
func TestSilentClients(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.connect(nobody)
		w.dial(nobody)
		o := bare(anyPath("unread"), fileNAR(randomBytes(4<<20)))
		w.dial(root).add(o)
		unread := w.dial(nobody)
		for range 20 {
			unread.op(opNarFromPath, str(o.path))
		}
		w.write("noisy.nix", `(import ./lib.nix).sh "noisy" "b seq 1 200000; echo noisy > $out"`)
		if got := w.built(nobody, "$W/noisy.nix 2>/dev/null"); got != "noisy" {
			t.Errorf("the build gave %q", got)
		}
		w.run(root, "nix-store --gc --print-dead >/dev/null")
		w.verify()
	})
}
