package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// addUsers gives the machine, as this test sees it, a group of build users.
func addUsers(t *testing.T, w *world, group string, uids ...int) {
	t.Helper()
	var names []string
	passwd := ""
	for _, uid := range uids {
		name := fmt.Sprintf("%s%d", group, uid)
		names = append(names, name)
		passwd += fmt.Sprintf("%s:x:%d:%d:e2e:/var/empty:/usr/sbin/nologin\n", name, uid, uids[0])
	}
	for file, more := range map[string]string{
		"/etc/passwd": passwd,
		"/etc/group":  fmt.Sprintf("%s:x:%d:%s\n", group, uids[0], strings.Join(names, ",")),
	} {
		text, err := os.ReadFile(file)
		must(t, err)
		copied := w.write(strings.ReplaceAll(file, "/", "_"), string(text)+more)
		must(t, unix.Mount(copied, file, "", unix.MS_BIND, ""))
		t.Cleanup(func() { unix.Unmount(file, unix.MNT_DETACH) })
	}
}

func TestBuildUsers(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := newWorld(t, "build-users-group = e2ebuild", "sandbox = false")
		addUsers(t, w, "e2ebuild", 31001, 31002, 31003)
		w.start()
		w.write("who.nix", `with import ./lib.nix; builtins.genList (i: sh "who-${toString i}" "/bin/sleep 0.2; /usr/bin/id -u > $out") 4`)
		seen := map[string]bool{}
		for _, out := range lines(w.run(nobody, "nix-build --no-out-link $W/who.nix")) {
			uid := w.run(nobody, "cat "+out)
			if !slices.Contains([]string{"31001", "31002", "31003"}, uid) {
				t.Errorf("a build ran as %s", uid)
			}
			seen[uid] = true
		}
		if len(seen) < 2 {
			t.Errorf("builds that run at once share a user: %v", seen)
		}
		// What a builder leaves running ends with the build.
		w.write("daemonize.nix", `(import ./lib.nix).sh "daemonize" "/bin/sleep 765432 >/dev/null 2>&1 & echo > $out"`)
		w.run(nobody, "nix-build --no-out-link $W/daemonize.nix")
		w.eventually("the builder's child has ended", func() bool { return !running("sleep 765432") })
		w.verify()
	})
}

// Messages of builds that are cut off, as nix-daemon words them.
func TestLimits(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("limits.nix", `with import ./lib.nix; {
			sleeps = sh "sleeps" "b sleep 100";
			talks = sh "talks" "while :; do echo talk; b sleep 0.1; done";
			floods = sh "floods" "b seq 1 100000; b sleep 100";
			cores = sh "cores" "echo $NIX_BUILD_CORES > $out";
			signal = sh "signal" "kill -9 $$; b kill -TERM 1; b sleep 1; exit 3";
		}`)
		for _, c := range []struct{ args, words string }{
			{"-A sleeps --max-silent-time 1", "timed out after 1 seconds of silence"},
			{"-A talks --timeout 1", "timed out after 1 seconds"},
		} {
			for _, u := range []user{root, nobody} {
				w.refused(u, "nix-build --no-out-link $W/limits.nix "+c.args, c.words)
			}
		}
		w.refused(root, "nix-build --no-out-link $W/limits.nix -A floods --option max-build-log-size 1000",
			"killed after writing more than 1000 bytes of log output")
		if got := w.built(root, "$W/limits.nix -A cores --cores 7"); got != "7" {
			t.Errorf("NIX_BUILD_CORES is %s", got)
		}
		if running("sleep 100") {
			w.eventually("the builders have ended", func() bool { return !running("sleep 100") })
		}
		w.verify()
	})
}

func TestRelaxedSandbox(t *testing.T) {
	isolated(t, func(t *testing.T) {
		const expr = `with import ./lib.nix; shWith { __noChroot = true; } "open" "if b test -e %s; then echo outside > $out; else echo inside > $out; fi"`
		for mode, want := range map[string]string{"relaxed": "outside", "true": ""} {
			w := started(t, "sandbox = "+mode)
			w.write("open.nix", strings.ReplaceAll(fmt.Sprintf(expr, w.dir), "b test", "/bin/busybox test"))
			if want == "" {
				w.refused(nobody, "nix-build --no-out-link $W/open.nix", "has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'")
			} else if got := w.built(nobody, "$W/open.nix"); got != want {
				t.Errorf("with sandbox = %s, the build ran %s", mode, got)
			}
			w.daemon.shutdown()
			w.umountNix()
		}
	})
}

// --check builds again and compares.
func TestCheckBuilds(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("check.nix", `with import ./lib.nix; { same = sh "same" "echo same > $out"; random = sh "random" "b head -c 8 /dev/urandom > $out"; }`)
		w.refused(nobody, "nix-build --no-out-link $W/check.nix -A same --check", "are not valid, so checking is not possible")
		w.run(nobody, "nix-build --no-out-link $W/check.nix -A same -A random")
		w.run(nobody, "nix-build --no-out-link $W/check.nix -A same --check")
		w.refused(nobody, "nix-build --no-out-link $W/check.nix -A random --check", "may not be deterministic: output '/nix/store/")
		w.verify()
	})
}

// Maintenance by the old command line.
func TestMaintenance(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("x.nix", `(import ./lib.nix).sh "x" "echo x > $out"`)
		out := w.run(nobody, "nix-build $W/x.nix")
		for _, script := range []string{
			"nix-store --verify", "nix-store --verify --check-contents", "nix-store --optimise", "nix store optimise",
			"nix store verify --all --no-trust", "nix-store -l " + out, "nix-store --verify-path " + out, "nix-store -r " + out,
		} {
			w.run(root, script)
		}
		w.refused(nobody, "nix-store --verify --repair", "you are not privileged to repair paths")
		w.verify()
	})
}

// tvixd's own commands, with a daemon and without.
func TestCommands(t *testing.T) {
	isolated(t, func(t *testing.T) {
		if underTest() == "nix" {
			t.Skip("these are tvixd's commands")
		}
		w := started(t)
		w.write("x.nix", `(import ./lib.nix).shWith { dep = (import ./lib.nix).sh "dep" "echo dep > $out"; } "x" "b mkdir $out; echo $dep > $out/file"`)
		out := w.run(nobody, "nix-build $W/x.nix")
		dead := w.run(root, "echo dead > dead; nix-store --add dead")
		tvixd := func(args string) string { return os.Getenv(binaryVar) + " " + args + " " }
		for _, mode := range []string{"with a daemon", "without"} {
			data := "--data-dir " + w.data + " "
			if mode == "without" {
				w.daemon.shutdown()
			}
			for _, c := range []struct{ script, want string }{
				{tvixd("path-info -r"+" "+data) + out, out},
				{tvixd("ls "+data) + out, "file"},
				{tvixd("cat "+data) + out + "/file", storeDir},
				{tvixd("roots " + data), w.home(nobody) + "/result -> " + out},
				{tvixd("stats --json " + data), "{"},
				{tvixd("verify --check-contents " + data), ""},
				{tvixd("gc --print-dead " + data), dead},
				{tvixd("export -r "+data) + out + " > closure; wc -c < closure", ""},
				{tvixd("import "+data) + "closure", out},
			} {
				if got := w.run(root, c.script); !strings.Contains(got, c.want) {
					t.Errorf("%s: %s gave:\n%s", mode, c.script, got)
				}
			}
		}
		if got := w.run(root, tvixd("gc --data-dir "+w.data)); !strings.Contains(got, dead) {
			t.Errorf("tvixd gc gave:\n%s", got)
		}
		w.start()
		w.wantAlive("a rooted path", out)
		w.wantGone("a dead path", dead)
		w.verify()
	})
}
