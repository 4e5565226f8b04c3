package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makeTree makes a folder with what a store object can hold.
func (w *world) makeTree(u user, name string) string {
	w.t.Helper()
	w.run(u, `mkdir -p `+name+`/empty `+name+`/deep/er; cd `+name+`
		printf 'text\n' > file; printf '#!/bin/sh\n' > program; chmod +x program
		: > nothing; head -c 3000000 /dev/urandom > large; cp large deep/er/same
		ln -s file link; ln -s /nowhere/at/all dangling; ln -s ../deep deep/up
		printf x > ')'; printf x > 'with space'; printf x > $'\xff\xfe-not-utf8'`)
	return filepath.Join(w.home(u), name)
}

func TestAddAndDump(t *testing.T) {
	isolated(t, func(t *testing.T) {
		forBoth(t, func(w *world, u user) {
			tree := w.makeTree(u, "tree")
			path := w.run(u, "nix store add-path "+tree)
			if got := w.run(u, "nix-store --add "+tree); got != path {
				w.t.Errorf("nix-store --add gave %s, nix store add-path %s", got, path)
			}
			w.run(u, "diff -r --no-dereference "+tree+" "+path)
			w.run(u, "nix-store --dump "+tree+" > a; nix-store --dump "+path+" > b; cmp a b")
			w.run(u, "nix store dump-path "+path+" | cmp - a; nix-store --restore restored < a; diff -r --no-dereference "+tree+" restored")
			if got := w.run(u, "stat -c '%a %u %g %Y' "+path+"/program "+path+"/file "+path+"/deep"); got != "555 0 0 1\n444 0 0 1\n555 0 0 1" {
				w.t.Errorf("modes, owners and times: %s", got)
			}
			file := w.run(u, "printf 'flat\\n' > flat; nix store add-file flat")
			if got := w.run(u, "cat "+file); got != "flat" {
				w.t.Errorf("the added file contains %q", got)
			}
			fixed := w.run(u, "nix-store --add-fixed sha256 flat")
			if want := w.run(u, "nix-store --print-fixed-path sha256 $(nix-hash --type sha256 --flat flat) flat"); fixed != want || fixed != file {
				w.t.Errorf("add-fixed gave %s, wanted %s and %s", fixed, want, file)
			}
			text := w.run(u, "nix-instantiate --eval --read-write-mode --strict --json -E 'builtins.toFile \"text\" \"from ${builtins.storePath "+file+"}\"' | tr -d '\"'")
			if got := w.run(u, "cat "+text); got != "from "+file {
				w.t.Errorf("toFile contains %q", got)
			}
			if underTest() == "tvixd" {
				w.refused(u, "touch "+path+"/new", "Read-only file system")
			}
			w.verify()
		})
	})
}

func TestCopy(t *testing.T) {
	isolated(t, func(t *testing.T) {
		forBoth(t, func(w *world, u user) {
			w.write("two.nix", `with import ./lib.nix; shWith { dep = sh "dep" "b head -c 100000 /dev/zero > $out"; } "two" "b mkdir $out; echo $dep $out > $out/refs"`)
			tree := w.makeTree(u, "tree")
			out := w.run(u, "nix-build --no-out-link $W/two.nix")
			source := w.run(u, "nix store add-path "+tree)
			cache := "file://" + w.home(u) + "/cache"
			w.run(u, "nix copy --to '"+cache+"?compression=zstd' "+out+" "+source)
			info := w.run(u, "nix path-info --json -r "+out+" "+source)
			hash := w.run(u, "nix-store --dump "+out+" | sha256sum")
			w.run(u, "cp -r "+source+" before")

			// Everything goes, and comes back from the cache.
			if got := w.run(root, "nix-store --gc >/dev/null; nix-store -q --requisites "+out+" 2>/dev/null || echo gone"); got != "gone" {
				w.t.Errorf("after the collection: %s", got)
			}
			w.run(u, "nix copy --from "+cache+" "+source) // by its contents anybody may add it
			if u == nobody {
				w.refused(u, "nix copy --no-check-sigs --from "+cache+" "+out, "lack")
			}
			w.refused(root, "nix copy --from file://"+w.home(u)+"/cache "+out, "lack")
			w.run(root, "nix copy --no-check-sigs --from file://"+w.home(u)+"/cache "+out)
			w.run(u, "diff -r --no-dereference before "+source)
			if got := w.run(u, "nix-store --dump "+out+" | sha256sum"); got != hash {
				w.t.Error("the NAR changed on its way")
			}
			comparePathInfos(w, info, w.run(u, "nix path-info --json -r "+out+" "+source))
			w.verify()
		})
	})
}

// comparePathInfos compares what has to survive a copy.
func comparePathInfos(w *world, before, after string) {
	w.t.Helper()
	type info struct {
		Path, NarHash, Ca, Deriver string
		NarSize                    uint64
		References                 []string
	}
	var a, b []info
	must(w.t, json.Unmarshal([]byte(before), &a))
	must(w.t, json.Unmarshal([]byte(after), &b))
	for _, list := range [][]info{a, b} {
		slices.SortFunc(list, func(x, y info) int { return strings.Compare(x.Path, y.Path) })
		for i := range list {
			slices.Sort(list[i].References)
		}
	}
	if !slices.EqualFunc(a, b, func(x, y info) bool {
		return x.Path == y.Path && x.NarHash == y.NarHash && x.NarSize == y.NarSize && x.Ca == y.Ca &&
			x.Deriver == y.Deriver && slices.Equal(x.References, y.References)
	}) {
		w.t.Errorf("path-info before:\n%s\nafter:\n%s", before, after)
	}
}

func TestSignedCopy(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := newWorld(t)
		w.run(root, "nix-store --generate-binary-cache-key e2e-1 $W/secret $W/public")
		public, err := os.ReadFile(w.dir + "/public")
		must(t, err)
		w.conf = append(w.conf, "trusted-public-keys = "+string(public))
		w.configure()
		w.start()
		w.write("signed.nix", `(import ./lib.nix).sh "signed" "echo signed > $out"`)
		out := w.run(root, "nix-build --no-out-link $W/signed.nix")
		w.run(root, "nix store sign -k $W/secret "+out)
		if got := w.run(nobody, "nix path-info --sigs "+out); !strings.Contains(got, "e2e-1:") {
			t.Errorf("no signature: %s", got)
		}
		w.run(root, "nix copy --to file://$W/cache "+out+"; chmod -R a+rX $W/cache; nix-store --delete "+out)
		w.run(nobody, "nix copy --from file://$W/cache "+out)
		if got := w.run(nobody, "cat "+out); got != "signed" {
			t.Errorf("the output contains %q", got)
		}
		w.run(nobody, "nix store verify --sigs-needed 1 "+out)
		w.verify()
	})
}

func TestExportImport(t *testing.T) {
	isolated(t, func(t *testing.T) {
		forBoth(t, func(w *world, u user) {
			w.write("two.nix", `with import ./lib.nix; shWith { dep = sh "dep" "echo dep > $out"; } "two" "echo $dep > $out"`)
			out := w.run(u, "nix-build --no-out-link $W/two.nix")
			closure := w.run(u, "nix-store -q --requisites "+out)
			w.run(u, "nix-store --export $(nix-store -q --requisites "+out+") > archive")
			w.run(root, "nix-store --gc")
			if u == nobody {
				w.refused(u, "nix-store --import < archive", "lack")
			}
			if got := w.run(root, "nix-store --import < "+w.home(u)+"/archive"); got != closure {
				w.t.Errorf("imported:\n%s\nwanted:\n%s", got, closure)
			}
			w.run(u, "nix-store --export $(nix-store -q --requisites "+out+") | cmp - archive")
			if got := w.run(u, "cat $(cat "+out+")"); got != "dep" {
				w.t.Errorf("the dependency contains %q", got)
			}
			w.verify()
		})
	})
}

func TestQueries(t *testing.T) {
	isolated(t, func(t *testing.T) {
		forBoth(t, func(w *world, u user) {
			w.write("graph.nix", `with import ./lib.nix; rec {
				a = sh "a" "echo a > $out"; b = shWith { inherit a; } "b" "echo $a $out > $out";
				c = shWith { inherit a b; } "c" "echo $b > $out"; }`)
			paths := lines(w.run(u, "nix-build --no-out-link $W/graph.nix"))
			a, b, c := paths[0], paths[1], paths[2]
			set := func(p ...string) string { slices.Sort(p); return strings.Join(p, "\n") }
			drv := lines(w.run(u, "nix-instantiate $W/graph.nix 2>/dev/null"))
			for _, q := range []struct{ query, want string }{
				{"--references " + b, set(a, b)},
				{"--references " + c, b},
				{"--referrers " + a, b},
				{"--referrers " + b, set(b, c)},
				{"--referrers-closure " + b, set(b, c)},
				{"--requisites " + c, set(a, b, c)},
				{"--deriver " + c, drv[2]},
				{"--outputs " + drv[1], b},
				{"--hash " + a, "sha256:" + w.run(u, "nix-store --dump "+a+" | nix-hash --type sha256 --base32 --flat /dev/stdin")},
				{"--size " + a, w.run(u, "nix-store --dump "+a+" | wc -c")},
				{"--binding name " + drv[0], "a"},
				{"--roots " + c, ""},
				{"--requisites --include-outputs " + drv[0], set(append(lines(w.run(u, "nix-store -q --requisites "+drv[0])), a)...)},
			} {
				got := strings.Join(sortedLines(w.run(u, "nix-store -q "+q.query)), "\n")
				if got != q.want {
					w.t.Errorf("nix-store -q %s gave:\n%s\nwanted:\n%s", q.query, got, q.want)
				}
			}
			if got := w.run(u, "nix-store -q --tree "+c); !strings.Contains(got, b) {
				w.t.Errorf("the tree: %s", got)
			}
			if got := w.run(u, "nix-store -q --graph "+c); !strings.Contains(got, "digraph") {
				w.t.Errorf("the graph: %s", got)
			}
			if got := w.run(u, "nix path-info -rsS "+c); len(lines(got)) != 3 {
				w.t.Errorf("path-info of the closure: %s", got)
			}
			all := lines(w.run(u, "nix path-info --all"))
			if shown := lines(w.run(u, "ls -d /nix/store/*")); !slices.Equal(shown, sortedLines(strings.Join(all, "\n"))) {
				w.t.Errorf("the mount shows:\n%s\nvalid are:\n%s", shown, all)
			}
			if got := w.run(u, "nix-store --check-validity "+c+" && nix-store --verify-path "+c+" && nix store ping 2>&1"); !strings.Contains(got, "daemon") {
				w.t.Errorf("ping: %s", got)
			}
			w.refused(u, "nix-store --check-validity "+anyPath("unknown"), "is not valid")
			w.refused(u, "nix-store -q --references "+anyPath("unknown"), "is not valid")
			hash := filepath.Base(c)[:32]
			if got := w.run(u, "nix path-info /nix/store/"+hash+"-c"); got != c {
				w.t.Errorf("path-info gave %s", got)
			}
			w.verify()
		})
	})
}

func sortedLines(s string) []string {
	l := slices.DeleteFunc(lines(s), func(line string) bool { return line == "/nix/store/.links" })
	slices.Sort(l)
	return l
}
