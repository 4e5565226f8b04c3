package e2e

import (
	"os"
	"strings"
	"testing"
)

// forBoth runs body for each user in a world of its own.
func forBoth(t *testing.T, body func(w *world, u user), conf ...string) {
	t.Run("root", func(t *testing.T) { body(started(t, conf...), root) })
	t.Run("user", func(t *testing.T) { body(started(t, conf...), nobody) })
}

func TestBuild(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		for _, u := range []user{root, nobody} {
			expr := "(import $lib).sh \"built-by-" + u.name + "\" \"echo made >&2; b echo $((6 * 7)) > $out\""
			r := w.try(u, "nix-build --no-out-link -E '"+strings.ReplaceAll(expr, "$lib", w.dir+"/lib.nix")+"'")
			if r.code != 0 {
				t.Fatal(r)
			}
			if !strings.Contains(r.stderr, "building '/nix/store/") || !strings.Contains(r.stderr, "made") {
				t.Errorf("the build is not shown:\n%v", r)
			}
			if got := w.run(u, "cat "+r.stdout); got != "42" {
				t.Errorf("the output contains %q", got)
			}
			again := w.try(u, "nix-build --no-out-link -E '"+strings.ReplaceAll(expr, "$lib", w.dir+"/lib.nix")+"'")
			if again.stdout != r.stdout || strings.Contains(again.stderr, "building") || again.code != 0 {
				t.Errorf("the second build does something:\n%v", again)
			}
			if log := w.run(u, "nix log "+r.stdout); !strings.Contains(log, "made") {
				t.Errorf("nix log shows %q", log)
			}
			// The new command line, with a link to the result.
			w.write("default.nix", "(import ./lib.nix).sh \"linked-"+u.name+"\" \"echo linked > $out\"")
			w.run(u, "nix build -L -f $W/default.nix")
			if got := w.run(u, "cat result; nix-store -q --roots $(readlink result)"); !strings.HasPrefix(got, "linked\n"+w.home(u)+"/result -> /nix/store/") {
				t.Errorf("the linked result: %s", got)
			}
		}
		w.verify()
	})
}

func TestOutputsAndAttributes(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("many.nix", `with import ./lib.nix; shWith { outputs = [ "out" "dev" "doc" ]; } "many"
			"echo out > $out; b mkdir -p $dev/include; echo $out > $dev/include/ref; echo doc > $doc"`)
		out := lines(w.run(nobody, "nix-build --no-out-link $W/many.nix -A out -A dev -A doc"))
		if len(out) != 3 {
			t.Fatal(out)
		}
		if got := w.run(nobody, "nix-store -q --references "+out[1]); got != out[0] {
			t.Errorf("dev refers to %q, wanted %q", got, out[0])
		}
		if got := w.run(nobody, "cat "+out[1]+"/include/ref"); got != out[0] {
			t.Errorf("dev contains %q, wanted %q", got, out[0])
		}
		w.write("passed.nix", `with import ./lib.nix; shWith { passAsFile = [ "text" ]; text = "from a file"; } "passed" "b cat $textPath > $out"`)
		if got := w.built(nobody, "$W/passed.nix"); got != "from a file" {
			t.Errorf("passAsFile gave %q", got)
		}
		w.write("attrs.nix", `with import ./lib.nix; shWith { __structuredAttrs = true; outputs = [ "out" ]; list = [ "a" "b c" ]; } "attrs"
			''json=$(b cat $NIX_BUILD_TOP/.attrs.json); out=''${json#*'"outputs":{"out":"'}; echo "$json" > "''${out%%\"*}"''`)
		if got := w.built(nobody, "$W/attrs.nix"); !strings.Contains(got, `"list":["a","b c"]`) {
			t.Errorf("structured attributes: %s", got)
		}
		w.verify()
	})
}

func TestFixedOutput(t *testing.T) {
	isolated(t, func(t *testing.T) {
		forBoth(t, func(w *world, u user) {
			const right = "sha256-WJG1sbnZhbmOA7pVmYrHpY9cIQXlYA7bTkYdk6OyXG4="
			w.write("fixed.nix", `{ hash, mode ? "flat" }: with import ./lib.nix;
				shWith { outputHash = hash; outputHashAlgo = "sha256"; outputHashMode = mode; } "fixed" "echo fixed text > $out"`)
			hash := w.run(u, "printf 'fixed text\\n' > f; nix hash file --sri --type sha256 f")
			out := w.run(u, "nix-build --no-out-link $W/fixed.nix --argstr hash '"+hash+"'")
			if got := w.run(u, "cat "+out); got != "fixed text" {
				w.t.Errorf("the output contains %q", got)
			}
			if got := w.run(u, "nix path-info --json "+out); !strings.Contains(got, `"ca":"fixed:sha256:`) {
				w.t.Errorf("path-info: %s", got)
			}
			wrong := w.refused(u, "nix-build --no-out-link $W/fixed.nix --argstr hash '"+right+"'",
				"hash mismatch in fixed-output derivation '/nix/store/", "specified: "+right, "got:    "+hash)
			if wrong.code != 1 { // as through any daemon
				w.t.Errorf("a wrong hash: exit code %d", wrong.code)
			}
			recursive := w.run(u, "nix hash path --sri --type sha256 f")
			w.run(u, "nix-build --no-out-link $W/fixed.nix --argstr mode recursive --argstr hash '"+recursive+"'")
			w.verify()
		})
	})
}

func TestFailingBuilder(t *testing.T) {
	isolated(t, func(t *testing.T) {
		forBoth(t, func(w *world, u user) {
			w.write("fail.nix", `(import ./lib.nix).sh "failing" "echo some way; echo then the end >&2; exit 7"`)
			r := w.refused(u, "nix-build --no-out-link $W/fail.nix", "builder for '/nix/store/", "failed with exit code 7", "then the end")
			if r.code != 1 { // as through any daemon
				w.t.Errorf("a failing builder: exit code %d", r.code)
			}
			drv := w.run(u, "nix-instantiate $W/fail.nix 2>/dev/null")
			if log := w.run(u, "nix log "+drv); log != "some way\nthen the end" {
				w.t.Errorf("nix log shows %q", log)
			}
			w.write("dependent.nix", `with import ./lib.nix; sh "dependent" "cat ${import ./fail.nix} > $out"`)
			w.refused(u, "nix-build --no-out-link $W/dependent.nix", "1 dependencies of derivation '/nix/store/", "failed to build")
			w.write("nothing.nix", `(import ./lib.nix).sh "nothing" "true"`)
			w.refused(u, "nix-build --no-out-link $W/nothing.nix", "failed to produce output path for output 'out' at '/nix/store/")
			w.write("keep.nix", `with import ./lib.nix; [ (sh "bad" "exit 1") (sh "good" "echo good > $out") ]`)
			w.refused(u, "nix-build --no-out-link -k -j1 $W/keep.nix", "failed with exit code 1")
			good := w.run(u, "nix-instantiate --eval -E '(builtins.elemAt (import '$W'/keep.nix) 1).outPath' | tr -d '\"'")
			if got := w.run(u, "cat "+good); got != "good" {
				w.t.Errorf("with -k, the good derivation gave %q", got)
			}
			w.verify()
		})
	})
}

func TestChain(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("chain.nix", `{ salt }: with import ./lib.nix;
			let f = i: if i == 0 then sh "chain-0-${salt}" "echo 0 > $out"
			           else shWith { prev = f (i - 1); } "chain-${toString i}-${salt}" "{ b cat $prev; echo ${toString i}; } > $out; echo $prev >> $out";
			in f 49`)
		for _, u := range []user{root, nobody} {
			out := w.run(u, "nix-build --no-out-link $W/chain.nix --argstr salt "+u.name)
			if got := len(lines(w.run(u, "nix-store -q --requisites "+out))); got != 50 {
				t.Errorf("the closure of a chain of 50 has %d paths", got)
			}
			if got := len(lines(w.run(u, "cat "+out))); got != 99 {
				t.Errorf("the last of the chain has %d lines", got)
			}
		}
		w.verify()
	})
}

func TestSandbox(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("inside.nix", `with import ./lib.nix; shWith { dep = sh "dep" "echo dep > $out"; } "inside" ''
			{ echo "pid $$"; echo "uid $(b id -u)"; echo "cwd $PWD"; echo "home $HOME";
			  echo "store $(echo $(b ls /nix/store | b wc -l))"; echo "host $(b hostname)"; echo "dep $(b cat $dep)"
			  b ip link 2>/dev/null | b grep -c ': eth' || true
			  b test ! -e /root; b test ! -e /etc/shadow; b test ! -w /nix/store/nothing; } > $out
		''`)
		// The store of the sandbox holds the output being made, and the closure of dep.
		got := w.built(nobody, "$W/inside.nix")
		for _, want := range []string{"pid 1", "uid 1000", "cwd /build", "home /homeless-shelter", "host localhost", "dep dep"} {
			if !strings.Contains(got+"\n", want+"\n") {
				t.Errorf("in the sandbox, %q is missing:\n%s", want, got)
			}
		}
		unlisted := w.run(root, "echo secret > secret; nix-store --add secret")
		w.write("unlisted.nix", `(import ./lib.nix).sh "unlisted" "b cat `+unlisted+` > $out"`)
		w.refused(nobody, "nix-build --no-out-link $W/unlisted.nix", "failed with exit code 1")
		must(t, os.WriteFile(w.shared+"/from-host", []byte("hello"), 0o644))
		w.write("shared.nix", `(import ./lib.nix).sh "shared" "b cat /e2e/from-host > $out"`)
		if got := w.built(nobody, "$W/shared.nix"); got != "hello" {
			t.Errorf("sandbox-paths gave %q", got)
		}
		w.verify()
	})
}

func TestWithoutSandbox(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t, "sandbox = false")
		w.write("outside.nix", `(import ./lib.nix).sh "outside" "/bin/cat `+w.dir+`/lib.nix > $out"`)
		if got := w.built(nobody, "$W/outside.nix"); got+"\n" != libNix {
			t.Errorf("the output contains %q", got)
		}
		w.verify()
	})
}
