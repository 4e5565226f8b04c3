package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// What an isolated builder sees.
func TestWorld(t *testing.T) {
	l := newLab(t)
	dep := l.derive(recipe{name: "dep", script: `mkdir $out; echo x > $out/x; ln -s x $out/y`})
	file := l.derive(recipe{name: "file", script: `echo f > $out`})
	link := l.derive(recipe{name: "link", script: `ln -s /nowhere $out`})
	other := l.derive(recipe{name: "other", script: `echo other > $out`})
	l.mustBuild(other)
	dir := string(l.store.Dir())
	d := l.derive(recipe{
		name: "world", inputs: []built{dep, file, link},
		env: map[string]string{
			"dep": l.store.Dir().Join(dep.out("out")), "file": l.store.Dir().Join(file.out("out")),
			"odd-name": "1", "dot.name": "2", "HOME": "/mine", "TERM": "dumb", "TMP": "/nowhere",
		},
		script: `set +e
{
echo "id $(id -u) $(id -g) $(id -G)"
echo "host $(hostname)"
echo "pid $$ pwd $(pwd) umask $(umask) core $(ulimit -c)"
stat -c '%n %a' / /build ` + dir + ` /tmp /dev/shm /etc | tr '\n' ' '; echo
echo "store $(ls ` + dir + ` | sed s/.*-// | sort | tr '\n' ' ')"
echo "dev $(ls /dev | tr '\n' ' ')"
echo "root $(ls / | tr '\n' ' ')"
echo "personality $(cat /proc/self/personality)"
grep -E '^(CapPrm|CapEff|CapInh|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
echo "stdin $(readlink /proc/self/fd/0)"
test -t 1 && echo tty || echo no tty
tr '\0' '\n' < /proc/1/environ | grep -E '^(HOME|TERM|TMP|NIX_|PATH|PWD|odd-name|dot.name|IN_NIX|USER|LANG)' | LC_ALL=C sort
cat /etc/passwd /etc/group /etc/hosts
ifconfig lo | grep -c LOOPBACK
cat $dep/y $file
touch $dep/x 2>/dev/null && echo wrote input
touch /etc/x /x 2>/dev/null && echo wrote root
touch /tmp/x /dev/shm/x ` + dir + `/stray && echo wrote
chmod 4755 /tmp/x 2>&1
mkdir d; chmod 2755 d 2>&1
ls /proc/self/fd | wc -l
} > $out 2>&1`,
	})
	got := l.mustBuild(d)
	for _, want := range []string{
		"id 1000 100 100\n", "host localhost\n", "pid 1 pwd /build umask 0022 core 0\n",
		"/ 750 /build 700 " + dir + " 1775 /tmp 1777 /dev/shm 1777 /etc 755 \n",
		"store dep file link world \n",
		"dev fd full null ptmx pts random shm stderr stdin stdout tty urandom zero \n",
		"root bin build dev etc proc tmp \n",
		"personality 00040000\n",
		"CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n" +
			"NoNewPrivs:\t1\nSeccomp:\t2\n",
		"stdin /dev/null\n", "no tty\n",
		"HOME=/mine\nNIX_BUILD_CORES=", "NIX_BUILD_TOP=/build\nNIX_LOG_FD=2\nNIX_STORE=" + dir + "\nPATH=/path-not-set\n" +
			"PWD=/build\nTERM=xterm-256color\nTMP=/build\nTMPDIR=/build\ndot.name=2\nodd-name=1\n",
		"root:x:0:0:Nix build user:/build:/noshell\nnixbld:x:1000:100:Nix build user:/build:/noshell\n" +
			"nobody:x:65534:65534:Nobody:/:/noshell\nroot:x:0:\nnixbld:!:100:\nnogroup:x:65534:\n" +
			"127.0.0.1 localhost\n::1 localhost\n",
		"\n1\nx\nf\nwrote\n",
		"chmod: /tmp/x: Operation not permitted\nchmod: d: Operation not permitted\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		t.Fatal(entries, err)
	} else {
		for _, e := range entries {
			if e.Name() == "stray" {
				t.Error("a stray file reached the store folder")
			}
		}
	}
}

func TestOutputIsATerminal(t *testing.T) {
	l := newLab(t)
	d := l.derive(recipe{name: "tty", script: `test -t 1; test -t 2; echo fine > /dev/stderr; printf 'a\r\nb\rc' ; touch $out`})
	res, sink := l.build(d)
	if !res.Status.OK() || sink.output() != "fine\na\nc" {
		t.Errorf("%+v, log %q", res, sink.output())
	}
}

func TestUnisolatedWorld(t *testing.T) {
	l := newLab(t)
	l.useHostShell()
	other := l.derive(recipe{name: "other", script: `echo other > $out`})
	l.mustBuild(other)
	d := l.derive(recipe{name: "world", env: map[string]string{"other": "x"}, script: `
{ id -u; test -d /etc && echo etc; cat ` + l.store.Dir().Join(other.out("out")) + `
  test -e ` + busybox + ` && echo host; echo $NIX_BUILD_TOP; pwd; } > $out`})
	got := l.mustBuild(d)
	top := filepath.Join(l.path("builds"), "nix-build-world.drv-0")
	if want := "0\netc\nother\nhost\n" + top + "\n" + top + "\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if left, err := os.ReadDir(l.path("builds")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestFailures(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		store := string(l.store.Dir())
		for name, c := range map[string]struct {
			r      recipe
			status Status
			msg    string // D is the derivation, P its output, S the store
		}{
			"exit": {recipe{script: `echo one; echo two; exit 3`}, PermanentFailure,
				"builder for 'D' failed with exit code 3;\nlast 2 log lines:\n> one\n> two\nFor full logs, run 'nix log D'."},
			"no log":  {recipe{script: `exit 1`}, PermanentFailure, "builder for 'D' failed with exit code 1"},
			"signal":  {recipe{script: `sh -c 'kill -SEGV $$' || exit 7`}, PermanentFailure, "builder for 'D' failed with exit code 7"},
			"missing": {recipe{script: `:`}, OutputRejected, "builder for 'D' failed to produce output path for output 'out' at 'P'"},
			"one of two": {recipe{outputs: []string{"dev", "out"}, script: `touch $out`}, OutputRejected,
				"builder for 'D' failed to produce output path for output 'dev' at 'S/"},
			"cycle": {recipe{outputs: []string{"dev", "out"}, script: `echo $dev > $out; echo $out > $dev`}, OutputRejected,
				"cycle detected in build of 'D' in the references of output 'dev' from output 'out'"},
			"writable": {recipe{script: `mkdir $out; chmod 777 $out`}, OutputRejected,
				"suspicious ownership or permission on 'P' for output 'out'; rejecting this build output"},
			"pipe": {recipe{script: `mkdir $out; mkfifo $out/pipe`}, OutputRejected, "file 'P/pipe' has an unsupported type"},
			"program": {recipe{builder: "/nowhere/sh", script: ``}, PermanentFailure,
				"builder for 'D' failed with exit code 1;\nlast 1 log lines:\n> error: executing '/nowhere/sh': No such file or directory\n"},
			"system": {recipe{system: "riscv64-linux", script: ``, env: map[string]string{"requiredSystemFeatures": "kvm exam"}}, InputRejected,
				"a 'riscv64-linux' with features {exam, kvm} is required to build 'D', but I am a 'x86_64-linux' with features {benchmark, big-parallel, nixos-test, uid-range}"},
			"builtin": {recipe{builder: "builtin:nonsense"}, InputRejected, "unsupported builtin builder 'nonsense'"},
			"flat folder": {recipe{script: `mkdir $out`, fixed: storepath.ContentAddress{Method: storepath.Flat, Hash: sha256("x")}}, OutputRejected,
				"output path 'P' should be a non-executable regular file since recursive hashing is not enabled (outputHashMode=flat)"},
			"fixed fails": {recipe{script: `exit 1`, fixed: storepath.ContentAddress{Method: storepath.Flat, Hash: sha256("x")}},
				TransientFailure, "builder for 'D' failed with exit code 1"},
			"references": {recipe{outputs: []string{"out", "lib"}, env: map[string]string{"disallowedReferences": "lib"},
				script: `echo $lib > $out; touch $lib`}, OutputRejected, "output 'P' is not allowed to refer to the following paths:\n  S/"},
			"specifier": {recipe{script: `touch $out`, env: map[string]string{"allowedReferences": "nope"}}, OutputRejected,
				"derivation contains an illegal reference specifier 'nope'"},
		} {
			t.Run(name, func(t *testing.T) {
				c.r.name = strings.ReplaceAll(name, " ", "-")
				d := l.derive(c.r)
				res, sink := l.build(d)
				want := strings.NewReplacer("'D'", "'"+store+"/"+d.path.Base()+"'", "log D", "log "+store+"/"+d.path.Base(),
					"'P", "'"+store+"/"+d.out("out").Base(), "S/", store+"/").Replace(c.msg)
				if res.Status != c.status || !strings.HasPrefix(res.ErrorMsg, want) {
					t.Errorf("status %d %q\nwant   %d %q\nlog %q", res.Status, res.ErrorMsg, c.status, want, sink.output())
				}
				for name := range d.drv.Outputs {
					if l.valid(d.out(name)) {
						t.Errorf("output %s is valid", name)
					}
				}
			})
		}
	})
}

func TestNoChroot(t *testing.T) {
	l := newLab(t)
	d := l.derive(recipe{name: "out", script: `touch $out`, env: map[string]string{"__noChroot": "1"}})
	res, _ := l.build(d)
	want := "derivation '" + l.store.Dir().Join(d.path) + "' has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'"
	if res.Status != InputRejected || res.ErrorMsg != want {
		t.Errorf("%d %q", res.Status, res.ErrorMsg)
	}
}

func TestDependencyFails(t *testing.T) {
	l := newLab(t)
	bad := l.derive(recipe{name: "a-bad", script: `echo broken; exit 1`})
	bad2 := l.derive(recipe{name: "b-bad", script: `exit 1`})
	mid := l.derive(recipe{name: "mid", script: `touch $out`, inputs: []built{bad, bad2}})
	top := l.derive(recipe{name: "top", script: `touch $out`, inputs: []built{mid}})
	dir := l.store.Dir()
	l.set.KeepGoing = true
	res, sink := l.build(top)
	if want := "1 dependencies of derivation '" + dir.Join(top.path) + "' failed to build"; res.Status != DependencyFailed || res.ErrorMsg != want {
		t.Errorf("%d %q", res.Status, res.ErrorMsg)
	}
	logs := strings.Join(sink.logs, "\n")
	for _, want := range []string{
		"error: builder for '" + dir.Join(bad.path) + "' failed with exit code 1;\n       last 1 log lines:\n       > broken\n       For full logs",
		"error: builder for '" + dir.Join(bad2.path) + "' failed with exit code 1",
		"error: 2 dependencies of derivation '" + dir.Join(mid.path) + "' failed to build",
	} {
		if !strings.Contains(logs, want) {
			t.Errorf("no %q in %s", want, logs)
		}
	}
	l.set.KeepGoing = false
	l.set.MaxJobs = 1
	res, sink = l.build(top)
	logs = strings.Join(sink.logs, "\n")
	if !strings.Contains(logs, "1 dependencies of derivation '"+dir.Join(mid.path)) || strings.Contains(logs, bad2.path.Base()) {
		t.Errorf("without keep-going: %d %s", res.Status, logs)
	}
}

func TestFixedOutputs(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		content := "contents\n"
		narOf := func(a nixhash.Algo) nixhash.Hash {
			in, err := l.store.IngestFlat(t.Context(), strings.NewReader(content), false)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Release()
			h, err := l.store.ContentHash(t.Context(), in, storepath.NAR, a)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		for _, algo := range []nixhash.Algo{nixhash.SHA1, nixhash.SHA256, nixhash.SHA512} {
			for _, ca := range []storepath.ContentAddress{
				{Method: storepath.Flat, Hash: nixhash.Sum(algo, []byte(content))},
				{Method: storepath.NAR, Hash: narOf(algo)},
			} {
				name := fmt.Sprint(algo, "-", ca.Method)
				t.Run(name, func(t *testing.T) {
					good := l.derive(recipe{name: name, script: `echo contents > $out; test $NIX_OUTPUT_CHECKED = 1`, fixed: ca})
					if got := l.mustBuild(good); got != content {
						t.Errorf("output %q", got)
					}
					info, err := l.store.PathInfo().Get(t.Context(), good.out("out"))
					if err != nil || info.CA != ca {
						t.Errorf("info %+v, %v", info, err)
					}
					wrong := ca
					wrong.Hash = nixhash.Sum(algo, []byte("something else"))
					bad := l.derive(recipe{name: name + "-bad", script: `echo contents > $out`, fixed: wrong})
					res, _ := l.build(bad)
					want := fmt.Sprintf("hash mismatch in fixed-output derivation '%s':\n  specified: %s\n     got:    %s",
						l.store.Dir().Join(bad.path), wrong.Hash.SRI(), ca.Hash.SRI())
					if res.Status != OutputRejected || res.ErrorMsg != want {
						t.Errorf("status %d %q", res.Status, res.ErrorMsg)
					}
					real, err := l.store.Dir().FromContentAddress(name+"-bad", ca, storepath.References{})
					if err != nil || !l.valid(real) || l.valid(bad.out("out")) {
						t.Errorf("not valid under its real path %v: %v", real, err)
					}
				})
			}
		}
	})
}

func TestFixedOutputWithReferences(t *testing.T) {
	l := newLab(t)
	for name, script := range map[string]string{"others": `echo $dep > $out`, "self": `echo $out > $out`} {
		t.Run(name, func(t *testing.T) {
			dep, err := l.store.AddText(t.Context(), "dep", []byte("x"), nil, store.AddOptions{})
			if err != nil {
				t.Fatal(err)
			}
			d := l.derive(recipe{
				name: "refs-" + name, script: script, srcs: []storepath.Path{dep},
				env:   map[string]string{"dep": l.store.Dir().Join(dep)},
				fixed: storepath.ContentAddress{Method: storepath.NAR, Hash: sha256("x")},
			})
			if res, _ := l.build(d); res.Status != OutputRejected || !strings.HasPrefix(res.ErrorMsg, "hash mismatch") {
				t.Errorf("%d %q", res.Status, res.ErrorMsg)
			}
			for info, err := range l.store.PathInfo().All(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if info.Path.Name() != "refs-"+name {
					continue
				}
				if len(info.References) != 1 {
					t.Errorf("references %v", info.References)
				}
				if name == "self" {
					if got := l.read(info.Path, ""); got != l.store.Dir().Join(info.Path)+"\n" {
						t.Errorf("refers to itself as %q", got)
					}
					h, err := l.store.HashNode(t.Context(), info.Root, storepath.NAR, nixhash.SHA256, info.Path)
					if err != nil || h != info.CA.Hash {
						t.Errorf("hash %v, %v; the address says %v", h, err, info.CA)
					}
				}
			}
		})
	}
}

func TestLimits(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		for name, c := range map[string]struct {
			script string
			set    func(*Settings)
			status Status
			msg    string
		}{
			"time": {`while true; do echo x; sleep 0.1; done`, func(s *Settings) { s.Timeout = time.Second }, TimedOut,
				" timed out after 1 seconds"},
			"silence": {`echo x; trap '' TERM INT; while true; do sleep 1000; done`,
				func(s *Settings) { s.MaxSilentTime = time.Second }, TimedOut, " timed out after 1 seconds of silence"},
			"log": {`while true; do echo 0123456789; done`, func(s *Settings) { s.MaxLogSize = 1000 }, LogLimitExceeded,
				" killed after writing more than 1000 bytes of log output"},
		} {
			t.Run(name, func(t *testing.T) {
				old := l.set
				defer func() { l.set = old }()
				c.set(&l.set)
				d := l.derive(recipe{name: name, script: c.script})
				res, _ := l.build(d)
				want := "building of '" + l.store.Dir().Join(d.path) + "!out' from .drv file" + c.msg
				if res.Status != c.status || res.ErrorMsg != want {
					t.Errorf("status %d %q", res.Status, res.ErrorMsg)
				}
			})
		}
	})
}

func TestLogAndPhases(t *testing.T) {
	l := newLab(t)
	d := l.derive(recipe{name: "log", script: `
echo '@nix {"action":"setPhase","phase":"unpack"}'
echo '@nix {"action":"msg","level":3,"msg":"a message"}'
echo '@nix {"action":"start","id":7,"level":3,"type":101,"text":"fetching","fields":["url"]}'
echo '@nix {"action":"start","id":8,"level":3,"type":105,"text":"forged","fields":[]}'
echo '@nix {"action":"stop","id":7}'
echo '@nix nonsense'
echo plain
touch $out`})
	_, sink := l.build(d)
	if fmt.Sprint(sink.phases) != "[unpack]" || sink.output() != "@nix nonsense\nplain" {
		t.Errorf("phases %v, log %q", sink.phases, sink.output())
	}
	if logs := strings.Join(sink.logs, "\n"); !strings.Contains(logs, "a message") ||
		!strings.Contains(logs, "error: bad JSON log message from builder: ") {
		t.Errorf("logs %q", logs)
	}
	if s := strings.Join(sink.started, "\n"); !strings.Contains(s, "101 fetching [url]") || strings.Contains(s, "forged") {
		t.Errorf("activities %q", s)
	}
	drv := l.store.Dir().Join(d.path)
	if want := fmt.Sprintf("105 building '%s' [%s  1 1]", drv, drv); sink.started[3] != want {
		t.Errorf("activity %q, want %q", sink.started[3], want)
	}
}

func TestCheck(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		check := func(d built) (Result, *recorder) {
			sink := new(recorder)
			r := l.request(sink, d)
			r.Mode = Check
			res, err := l.builder.Build(context.Background(), r)
			if err != nil {
				t.Fatal(err)
			}
			res[0].ErrorMsg = plain(res[0].ErrorMsg)
			return res[0], sink
		}
		good := l.derive(recipe{name: "good", script: `echo same > $out`})
		full := l.store.Dir().Join(good.path)
		if res, _ := check(good); res.ErrorMsg != "some outputs of '"+full+"' are not valid, so checking is not possible" {
			t.Errorf("%d %q", res.Status, res.ErrorMsg)
		}
		l.mustBuild(good)
		if res, _ := check(good); res.Status != Built {
			t.Errorf("%d %q", res.Status, res.ErrorMsg)
		}
		bad := l.derive(recipe{name: "bad", script: `cat /proc/sys/kernel/random/uuid > $out`})
		first := l.mustBuild(bad)
		out := l.store.Dir().Join(bad.out("out"))
		want := "derivation '" + l.store.Dir().Join(bad.path) + "' may not be deterministic: output '" + out + "' differs"
		if res, _ := check(bad); res.Status != NotDeterministic || res.ErrorMsg != want || !res.NonDeterministic {
			t.Errorf("%d %q", res.Status, res.ErrorMsg)
		}
		l.set.KeepFailed = true
		if res, _ := check(bad); res.ErrorMsg != want+" from '"+out+".check'" {
			t.Errorf("%q", res.ErrorMsg)
		}
		if kept, err := os.ReadFile(out + ".check"); err != nil || string(kept) == first || len(kept) != len(first) {
			t.Errorf("kept %q, %v", kept, err)
		}
	})
}

func TestKeepFailed(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		l.set.KeepFailed = true
		d := l.derive(recipe{name: "kept", script: `echo work > file; exit 1`})
		_, sink := l.build(d)
		dir := l.path("builds/nix-build-kept.drv-0")
		if l.set.Sandbox == SandboxOn {
			dir += "/build"
		}
		if want := "note: keeping build directory '" + dir + "'"; strings.Join(sink.logs, "\n") != want {
			t.Errorf("logs %q, want %q", sink.logs, want)
		}
		if got, err := os.ReadFile(dir + "/file"); string(got) != "work\n" {
			t.Errorf("%q, %v", got, err)
		}
		if err := removePath(l.path("builds/nix-build-kept.drv-0")); err != nil {
			t.Error(err)
		}
	})
}

func TestAttributesAsFiles(t *testing.T) {
	l := newLab(t)
	dep, err := l.store.AddText(t.Context(), "dep", []byte("x"), nil, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := l.store.Dir()
	src, err := l.store.AddText(t.Context(), "src", []byte(dir.Join(dep)), []storepath.Path{dep}, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	d := l.derive(recipe{
		name: "files", srcs: []storepath.Path{src},
		env: map[string]string{
			"passAsFile": "text", "text": "some text", "exportReferencesGraph": "graph " + dir.Join(src),
			"self": "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9",
		},
		script: `{ cat $textPath; echo; echo ${text-unset}; cat graph; echo $self; echo $out; } > $out`,
	})
	got := strings.Split(l.mustBuild(d), "\n")
	self := dir.Join(d.out("out"))
	want := []string{"some text", "unset", dir.Join(dep), "", "0", dir.Join(src), "", "1", dir.Join(dep), self, self, ""}
	if src.Compare(dep) < 0 {
		want = []string{"some text", "unset", dir.Join(src), "", "1", dir.Join(dep), dir.Join(dep), "", "0", self, self, ""}
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestStructuredAttrs(t *testing.T) {
	l := newLab(t)
	d := l.derive(recipe{
		name: "structured",
		env: map[string]string{"__json": `{"a":1,"s":"it's","list":["x","y"],"set":{"k":"v"},"nested":{"z":{}},` +
			`"f":1.5,"t":true,"n":null,"big":12345678901234567890,"u":"ü\u0001/"}`},
		script: `cat $NIX_ATTRS_JSON_FILE > o; echo >> o; cat $NIX_ATTRS_SH_FILE >> o; 
sed -n 's/.*"outputs":{"out":"\([^"]*\)".*/\1/p' o > path; read out < path; cp o $out`,
	})
	got := l.mustBuild(d)
	out := l.store.Dir().Join(d.out("out"))
	want := `{"a":1,"big":12345678901234567890,"f":1.5,"list":["x","y"],"n":null,"nested":{"z":{}},"outputs":{"out":"` + out +
		`"},"s":"it's","set":{"k":"v"},"t":true,"u":"ü\u0001/"}` + "\n" +
		"declare a=1\ndeclare big=12345678901234567890\ndeclare -a list=('x' 'y' )\ndeclare n=''\n" +
		"declare -A outputs=(['out']='" + out + "' )\ndeclare s='it'\\''s'\ndeclare -A set=(['k']='v' )\ndeclare t=1\ndeclare u='ü\x01/'\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Outputs that were valid before a partial rebuild stay as they are.
func TestPartialOutputs(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		d := l.derive(recipe{name: "multi", outputs: []string{"out", "lib"},
			script: `cat /proc/sys/kernel/random/uuid > $out; echo $out > $lib`})
		in, err := l.store.IngestFlat(t.Context(), strings.NewReader("old\n"), false)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Release()
		err = l.store.Register(t.Context(), []pathinfo.PathInfo{{
			Path: d.out("out"), Root: in.Root, NarHash: in.NarHash, NarSize: in.NarSize,
		}})
		if err != nil {
			t.Fatal(err)
		}
		res, err := l.builder.Build(t.Context(), Request{Settings: l.set, Targets: []Target{{Drv: d.path}}})
		if err != nil || res[0].Status != Built {
			t.Fatal(res, err)
		}
		if got := l.read(d.out("out"), ""); got != "old\n" {
			t.Errorf("out became %q", got)
		}
		if got := l.read(d.out("lib"), ""); got != l.store.Dir().Join(d.out("out"))+"\n" {
			t.Errorf("lib is %q", got)
		}
	})
}

func TestOutputChecks(t *testing.T) {
	l := newLab(t)
	dep := l.derive(recipe{name: "dep", script: `head -c 400 /dev/zero > $out`})
	l.mustBuild(dep)
	dir := l.store.Dir()
	for name, c := range map[string]struct{ checks, msg string }{
		"size":      {`{"maxSize":20}`, "path 'P' is too large at "},
		"closure":   {`{"maxClosureSize":500}`, "closure of path 'P' is too large at "},
		"allowed":   {`{"allowedReferences":[]}`, "output 'P' is not allowed to refer to the following paths:\n  DEP"},
		"requisite": {`{"disallowedRequisites":["DEP"]}`, "output 'P' is not allowed to refer to the following paths:\n  DEP"},
		"itself":    {`{"allowedRequisites":["DEP"]}`, "output 'P' is not allowed to refer to the following paths:\n  P"},
		"type":      {`{"maxSize":"big"}`, "attribute 'maxSize' of derivation"},
		"fine":      {`{"allowedRequisites":["DEP","out"],"maxSize":1000,"disallowedReferences":["/nowhere"]}`, "derivation contains an illegal reference specifier '/nowhere'"},
	} {
		t.Run(name, func(t *testing.T) {
			checks := strings.ReplaceAll(c.checks, "DEP", dir.Join(dep.out("out")))
			d := l.derive(recipe{
				name: name, inputs: []built{dep},
				env: map[string]string{"__json": `{"outputChecks":{"out":` + checks + `}}`},
				script: `read json < $NIX_ATTRS_JSON_FILE || true; out=${json#*\"outputs\":\{\"out\":\"}; out=${out%%\"*}
printf '%s' "` + dir.Join(dep.out("out")) + `" > $out`,
			})
			res, sink := l.build(d)
			if res.Status == Built {
				t.Fatal("built")
			}
			want := strings.NewReplacer("'P'", "'"+dir.Join(d.out("out"))+"'", "DEP", dir.Join(dep.out("out")),
				"  P", "  "+dir.Join(d.out("out"))).Replace(c.msg)
			if !strings.HasPrefix(res.ErrorMsg, want) {
				t.Errorf("%d %q, want %q\n%s", res.Status, res.ErrorMsg, want, sink.output())
			}
		})
	}
}

func TestRepair(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		d := l.derive(recipe{name: "repair", script: `echo good > $out`})
		l.mustBuild(d)
		repair := func() Result {
			r := l.request(nil, d)
			r.Mode = Repair
			res, err := l.builder.Build(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			return res[0]
		}
		if res := repair(); res.Status != AlreadyValid {
			t.Errorf("%+v", res)
		}
		info, err := l.store.PathInfo().Get(t.Context(), d.out("out"))
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.store.IngestFlat(t.Context(), strings.NewReader("bad\n"), false)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Release()
		info.Root = in.Root // other contents than its hash says
		if err := l.store.Replace(t.Context(), []pathinfo.PathInfo{*info}); err != nil {
			t.Fatal(err)
		}
		if res := repair(); res.Status != Built || l.read(d.out("out"), "") != "good\n" {
			t.Errorf("%+v, %q", res, l.read(d.out("out"), ""))
		}
	})
}

// A builder may make sandboxes of its own.
func TestNestedNamespaces(t *testing.T) {
	l := newLab(t)
	l.set.SandboxPaths = append(l.set.SandboxPaths, SandboxPath{Target: "/bin/busybox", Source: busybox})
	d := l.derive(recipe{name: "nested", script: `
unshare -r -m -p -f --mount-proc sh -c 'echo $$; mkdir m; mount -t tmpfs t m; touch m/x; ls m' > $out`})
	if got := l.mustBuild(d); got != "1\nx\n" {
		t.Errorf("%q", got)
	}
}
