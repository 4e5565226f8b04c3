package e2e

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRestart(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("x.nix", `(import ./lib.nix).sh "restart" "echo before > $out"`)
		out := w.run(nobody, "nix-build $W/x.nix")
		tree := w.run(root, "mkdir tree; echo in the tree > tree/file; nix-store --add tree")
		for _, how := range []string{"stopped", "killed"} {
			if how == "stopped" {
				w.daemon.shutdown()
				if underTest() == "tvixd" && len(mountsBelow("/nix")) > 0 {
					t.Errorf("a stopped daemon leaves its mount: %v", mountsBelow("/nix"))
				}
			} else {
				w.daemon.kill() // its mount is left behind, and dead
			}
			w.start()
			if got := w.run(nobody, "cat "+out+" "+tree+"/file; nix-store -q --roots "+out); got != "before\nin the tree\n"+w.home(nobody)+"/result -> "+out {
				t.Errorf("after the daemon was %s: %s", how, got)
			}
			if r := w.try(nobody, "nix-build $W/x.nix"); r.code != 0 || strings.Contains(r.stderr, "building") {
				t.Errorf("after the daemon was %s, a build that was done: %v", how, r)
			}
			w.verify()
		}
	})
}

// A daemon that is stopped while a client has its folder in the store and a
// build runs still ends, and so does the builder.
func TestStopWhileBusy(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		tree := w.run(root, "mkdir tree; echo > tree/file; nix-store --add tree")
		stay := exec.Command("sleep", "1000")
		stay.Dir = tree
		must(t, stay.Start())
		defer stay.Wait()
		defer stay.Process.Kill()
		w.write("long.nix", `(import ./lib.nix).sh "long" "echo > /e2e/ready; b sleep 876543"`)
		build := w.background(nobody, "nix-build --no-out-link $W/long.nix")
		w.eventually("the builder sleeps", func() bool { return exists(w.shared+"/ready") && running("sleep 876543") })
		w.daemon.shutdown()
		if underTest() == "tvixd" { // nix-daemon's children outlive it
			if r := build(); r.code == 0 {
				t.Errorf("the build that was cut off: %v", r)
			}
			w.eventually("the builder has ended", func() bool { return !running("sleep 876543") })
		}
		w.start()
		w.verify()
		stay.Process.Kill()
		for _, p := range processes() {
			if strings.HasPrefix(p.command, "nix-build ") {
				w.run(root, "kill "+p.pidString())
			}
		}
	})
}

func TestTwoDaemons(t *testing.T) {
	isolated(t, func(t *testing.T) {
		if underTest() == "nix" {
			t.Skip("nix-daemons may share a store")
		}
		w := started(t)
		second := w.launch()
		select {
		case <-second.ended:
		case <-second.ready:
			t.Error("a second daemon serves the same data folder")
		case <-time.After(patience):
			t.Error("a second daemon neither runs nor ends")
		}
		second.stop.Do(func() {
			second.cmd.Process.Kill()
			<-second.ended
			if second.err == nil || !strings.Contains(second.messages(), w.data) {
				t.Errorf("the second daemon: %v\n%s", second.err, second.messages())
			}
		})
		w.write("x.nix", `(import ./lib.nix).sh "first" "echo first > $out"`)
		if got := w.built(nobody, "$W/x.nix"); got != "first" {
			t.Errorf("the first daemon's build gave %q", got)
		}
		w.verify()
	})
}

func TestSocketActivation(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := newWorld(t)
		must(t, os.MkdirAll(filepath.Dir(socketPath), 0o755))
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath, Net: "unix"})
		must(t, err)
		listener.SetUnlinkOnClose(false)
		must(t, os.Chmod(socketPath, 0o666))
		file, err := listener.File()
		must(t, err)
		defer file.Close()
		// A client that was there first waits.
		early := w.background(nobody, "nix store ping && echo served")
		w.daemon = w.launchWith(func(c *exec.Cmd) {
			c.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", c.Path}, c.Args[1:]...)
			c.Path = "/bin/sh"
			c.Env = append(c.Env, "LISTEN_FDS=1")
			c.ExtraFiles = []*os.File{file}
		})
		listener.Close()
		if r := early(); r.code != 0 || !strings.HasSuffix(r.stdout, "served") {
			t.Errorf("the client that waited: %v\n%s", r, w.daemon.messages())
		}
		w.daemon.waitReady()
		w.write("x.nix", `(import ./lib.nix).sh "activated" "echo activated > $out"`)
		if got := w.built(nobody, "$W/x.nix"); got != "activated" {
			t.Errorf("the build gave %q", got)
		}
		w.verify()
		w.daemon.shutdown()
		if !exists(socketPath) {
			t.Error("the daemon removed a socket that is not its own")
		}
	})
}

// stdio starts a daemon that serves one client, u, over its standard input and
// output.
func (w *world) stdio(u user) *conn {
	w.t.Helper()
	script := os.Getenv(binaryVar) + " daemon --stdio --data-dir " + w.data
	if underTest() == "nix" {
		script = "nix-daemon --stdio"
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	cmd := w.command(ctx, u, "exec "+script)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(w.t, err)
	out, err := cmd.StdoutPipe()
	must(w.t, err)
	must(w.t, cmd.Start())
	c := &conn{t: w.t, r: bufio.NewReader(out), w: in}
	w.t.Cleanup(func() {
		defer cancel()
		c.close()
		if err := cmd.Wait(); err != nil {
			w.t.Errorf("the daemon over stdio: %v", err)
		}
	})
	return c
}

func TestStdio(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		o := source("over-stdio", fileNAR([]byte("over stdio")))
		c := w.stdio(nobody)
		must(t, c.shake(wireVersion))
		c.add(o)
		if !c.valid(o.path) {
			t.Error("the added path is not valid")
		}
		w.wantAlive("the path, as the other clients see it", o.path)
		if got := c.narHash(o.path, o.size); got != o.nhash {
			t.Errorf("the NAR hash is %s, wanted %s", got, o.nhash)
		}
		// Its client is not trusted just because of the way it comes.
		c.refused(opAddToStoreNar, []string{"lacks"}, bare(anyPath("unsigned"), o.nar).request(true), framed(o.nar))
		c.close()

		// As ssh-ng stores do it, with an ssh that goes nowhere.
		must(t, os.MkdirAll(w.dir+"/bin", 0o755))
		must(t, os.WriteFile(w.dir+"/bin/ssh", []byte("#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n"), 0o755))
		remote := "nix-daemon"
		if underTest() == "tvixd" {
			remote = w.dir + "/bin/remote"
			must(t, os.WriteFile(remote, []byte("#!/bin/sh\nexec "+os.Getenv(binaryVar)+" daemon \"$@\" --data-dir "+w.data+"\n"), 0o755))
		}
		w.run(root, `export PATH=$W/bin:$PATH; echo there > f; p=$(nix-store --add f)
			nix store ping --store 'ssh-ng://localhost?remote-program=`+remote+`'
			nix path-info --store 'ssh-ng://localhost?remote-program=`+remote+`' $p`)
		w.verify()
	})
}

func TestTrust(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		unsigned := bare(anyPath("unsigned"), fileNAR([]byte("unsigned")))
		lacks := []string{"lacks a valid signature", "lacks a signature by a trusted key"}
		c := w.dial(nobody)
		for _, dontCheck := range []bool{false, true} {
			c.refused(opAddToStoreNar, lacks, unsigned.request(dontCheck), framed(unsigned.nar))
		}
		c.refused(opVerifyStore, []string{"you are not privileged to repair paths"}, u64(0), u64(1))
		if underTest() == "tvixd" { // nix-daemon closes the connection here
			own := source("own", fileNAR([]byte("own")))
			c.add(own)
			w.wantAlive("a path by its contents", own.path)
		}
		r := w.dial(root)
		r.refused(opAddToStoreNar, lacks, unsigned.request(false), framed(unsigned.nar))
		r.add(unsigned)
		w.wantAlive("what root vouches for", unsigned.path)

		// An untrusted client's settings do not take effect, and trouble nobody.
		w.write("where.nix", `{ salt }: (import ./lib.nix).sh "where-${salt}" "if b test -e `+w.dir+`; then echo outside > $out; else echo inside > $out; fi"`)
		if got := w.built(nobody, "$W/where.nix --argstr salt nobody --option sandbox false"); got != "inside" {
			t.Errorf("the build of an untrusted user who wants no sandbox ran %s", got)
		}
		w.verify()
	})
}

func TestTrustedUsers(t *testing.T) {
	isolated(t, func(t *testing.T) {
		for _, list := range []string{"root nobody", "@nogroup", "*"} {
			t.Run(list, func(t *testing.T) {
				w := started(t, "trusted-users = "+list)
				o := bare(anyPath("unsigned"), fileNAR([]byte("unsigned")))
				w.dial(nobody).add(o)
				w.wantAlive("what a trusted user vouches for", o.path)
				w.write("where.nix", `(import ./lib.nix).sh "where" "if b test -e `+w.dir+`; then echo outside > $out; else echo inside > $out; fi"`)
				if got := w.built(nobody, "$W/where.nix --option sandbox false"); got != "outside" {
					t.Errorf("the build of a trusted user who wants no sandbox ran %s", got)
				}
			})
		}
	})
}

func TestAllowedUsers(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t, "allowed-users = root")
		w.refused(nobody, "nix store ping", "cannot open connection to remote store")
		w.run(root, "nix store ping")
	})
}

func TestConfiguration(t *testing.T) {
	isolated(t, func(t *testing.T) {
		t.Run("unknown setting", func(t *testing.T) {
			w := newWorld(t, "no-such-setting = 1", "include more.conf", "!include missing.conf")
			w.write("etc/more.conf", "")
			w.start()
			w.run(root, "nix-store --gc --print-dead 2>/dev/null")
			if got := w.daemon.messages(); !strings.Contains(got, "unknown setting 'no-such-setting'") {
				t.Errorf("the daemon says:\n%s", got)
			}
		})
		for line, words := range map[string]string{
			"max-jobs = lots":     "max-jobs",
			"sandbox = perhaps":   "sandbox",
			"just some words":     "",
			"include missing.txt": "missing.txt",
		} {
			t.Run(line, func(t *testing.T) {
				w := newWorld(t, line)
				d := w.launch()
				d.stop.Do(func() {
					select {
					case <-d.ended:
					case <-d.ready:
						t.Errorf("the daemon runs with %q", line)
					case <-time.After(patience):
						t.Errorf("with %q the daemon neither runs nor ends", line)
					}
					d.cmd.Process.Kill()
					<-d.ended
				})
				if d.err == nil || !strings.Contains(d.messages(), words) {
					t.Errorf("with %q: %v\n%s", line, d.err, d.messages())
				}
			})
		}
	})
}

// Two clients that want one derivation share its build.
func TestSharedBuild(t *testing.T) {
	isolated(t, func(t *testing.T) {
		w := started(t)
		w.write("shared.nix", `(import ./lib.nix).sh "shared" "echo started >> /e2e/log; while ! b test -e /e2e/go; do b sleep 0.05; done; echo shared > $out"`)
		first := w.background(nobody, "exec nix-build --no-out-link $W/shared.nix")
		w.eventually("the build runs", func() bool { return exists(w.shared + "/log") })
		var rest []func() result
		for _, u := range []user{root, nobody} {
			rest = append(rest, w.background(u, "nix-build --no-out-link $W/shared.nix 2>$W/shared/said-"+u.name))
			w.eventually("the next client has a plan", func() bool {
				said, _ := os.ReadFile(w.shared + "/said-" + u.name)
				return strings.Contains(string(said), "will be built")
			})
		}
		if underTest() == "tvixd" {
			// The one who came first may go; the others still want it.
			time.Sleep(300 * time.Millisecond)
			for _, p := range processes() {
				if strings.HasPrefix(p.command, "nix-build ") && p.ppid == os.Getpid() {
					unix.Kill(p.pid, unix.SIGKILL)
				}
			}
			first()
		}
		must(t, os.WriteFile(w.shared+"/go", nil, 0o644))
		for _, wait := range rest {
			if r := wait(); r.code != 0 || !strings.HasPrefix(r.stdout, storeDir) {
				t.Errorf("a client of the shared build: %v", r)
			}
		}
		log, err := os.ReadFile(w.shared + "/log")
		must(t, err)
		if got := strings.Count(string(log), "started"); got != 1 {
			t.Errorf("it was built %d times", got)
		}
		w.verify()
	})
}
