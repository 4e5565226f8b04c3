package build

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/storepath"
)

// processesWith counts processes whose command line holds a text.
func processesWith(t *testing.T, text string) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		// It may be gone by now.
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), text) {
			n++
		}
	}
	return n
}

// marker is a number of seconds that nobody else sleeps.
func marker() string {
	return "9" + strconv.Itoa(os.Getpid()) + strconv.FormatInt(time.Now().UnixNano()%1e6, 10)
}

func TestNothingLeftRunning(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		for name, script := range map[string]string{
			"background":      `sleep MARK >/dev/null 2>&1 </dev/null & touch $out`,
			"holds the log":   `sleep MARK & touch $out`,
			"another session": `setsid sleep MARK >/dev/null 2>&1 </dev/null & touch $out; sleep 0.1`,
			"closes the log":  `touch $out; exec >/dev/null 2>&1; sleep MARK`,
			"ignores signals": `trap '' TERM INT HUP; (trap '' TERM INT HUP; sleep MARK) & touch $out; exit 0`,
		} {
			t.Run(name, func(t *testing.T) {
				m := marker()
				d := l.derive(recipe{name: strings.ReplaceAll(name, " ", "-"), script: strings.ReplaceAll(script, "MARK", m)})
				res, _ := l.build(d)
				if name == "closes the log" {
					if want := "failed due to signal 9 (Killed)"; !strings.HasSuffix(res.ErrorMsg, want) {
						t.Errorf("%d %q", res.Status, res.ErrorMsg)
					}
				} else if res.Status != Built {
					t.Errorf("%d %q", res.Status, res.ErrorMsg)
				}
				if n := processesWith(t, m); n > 0 {
					t.Errorf("%d processes left", n)
				}
			})
		}
	})
}

func TestCancel(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		m := marker()
		d := l.derive(recipe{name: "endless", script: `trap '' TERM; echo begun; sleep ` + m + `; touch $out`})
		ctx, cancel := context.WithCancel(t.Context())
		begun := notifySink{lines: make(chan string, 10)}
		done := make(chan error)
		go func() {
			_, err := l.builder.Build(ctx, l.request(&begun, d))
			done <- err
		}()
		<-begun.lines
		cancel()
		if err := <-done; err == nil {
			t.Error("no error")
		}
		if n := processesWith(t, m); n > 0 {
			t.Errorf("%d processes left", n)
		}
		l.checkClean()
	})
}

// notifySink passes log lines on.
type notifySink struct {
	recorder
	lines chan string
}

func (s *notifySink) Result(id, typ uint64, fields []any) {
	s.recorder.Result(id, typ, fields)
	if typ == ResBuildLogLine {
		s.lines <- fields[0].(string)
	}
}

func TestHostileOutputs(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		secret := l.path("secret")
		if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Run("link to a host file", func(t *testing.T) {
			d := l.derive(recipe{name: "link", script: `ln -s ` + secret + ` $out`})
			if res, _ := l.build(d); res.Status != Built {
				t.Fatalf("%d %q", res.Status, res.ErrorMsg)
			}
			info, err := l.store.PathInfo().Get(t.Context(), d.out("out"))
			if err != nil || info.Root.Kind != castore.KindSymlink || info.Root.Target != secret {
				t.Errorf("%+v, %v", info, err)
			}
		})
		t.Run("fixed link", func(t *testing.T) {
			d := l.derive(recipe{name: "fixed", script: `ln -s ` + secret + ` $out`,
				fixed: storepath.ContentAddress{Method: storepath.Flat, Hash: sha256("secret")}})
			if res, _ := l.build(d); res.Status != OutputRejected {
				t.Fatalf("%d %q", res.Status, res.ErrorMsg)
			}
		})
		t.Run("modes", func(t *testing.T) {
			d := l.derive(recipe{name: "modes", script: `mkdir $out; cd $out
for m in 0100 0010 0001 0000 0666 0711; do echo $m > $m; chmod $m $m; done
chmod 4755 0711 2>/dev/null || true; mkdir closed; echo x > closed/x; chmod 000 closed`})
			res, _ := l.build(d)
			if res.Status != Built {
				t.Fatalf("%d %q", res.Status, res.ErrorMsg)
			}
			for name, exec := range map[string]bool{"0100": true, "0010": false, "0001": false, "0000": false, "0711": true} {
				node, err := l.store.Lookup(t.Context(), d.out("out"), name)
				if err != nil || node.Executable != exec {
					t.Errorf("%s: %+v, %v", name, node, err)
				}
			}
		})
		for name, script := range map[string]string{
			"socket": `mkdir $out; nc -l -p 1 local:$out/s & mkfifo $out/p; wait -n 2>/dev/null || true`,
			"fifo":   `mkfifo $out`,
		} {
			t.Run(name, func(t *testing.T) {
				d := l.derive(recipe{name: name, script: script})
				if res, _ := l.build(d); res.Status != OutputRejected {
					t.Errorf("%d %q", res.Status, res.ErrorMsg)
				}
			})
		}
	})
}

func TestDeepFolders(t *testing.T) {
	l := newLab(t)
	// Too deep for an archive, and deeper than there are descriptors.
	d := l.derive(recipe{name: "deep", script: `
deep() { mkdir -p $1; cd $1; for i in 1 2 3 4 5 6 7 8; do p=d; for j in $(seq 149); do p=$p/d; done; mkdir -p $p; cd $p; done; }
deep $out; deep $NIX_BUILD_TOP/x`})
	res, _ := l.build(d)
	if res.Status != OutputRejected || !strings.Contains(res.ErrorMsg, "nesting") {
		t.Errorf("%d %.100q", res.Status, res.ErrorMsg)
	}
	l.checkClean()
}

func TestForkBomb(t *testing.T) {
	l := newLab(t)
	l.set.Timeout = 2 * time.Second
	d := l.derive(recipe{name: "bomb", script: `ulimit -u > limit; read n < limit; test $n -le ` +
		strconv.FormatUint(maxProcesses(), 10) + `; ulimit -u 200; b() { b | b & b; }; b 2>/dev/null; sleep 100`})
	res, _ := l.build(d)
	if res.Status == Built {
		t.Errorf("%d %q", res.Status, res.ErrorMsg)
	}
	ok := l.derive(recipe{name: "after", script: `touch $out`})
	if res, _ := l.build(ok); res.Status != Built {
		t.Errorf("%d %q", res.Status, res.ErrorMsg)
	}
}

func TestClosedBuildFolder(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		d := l.derive(recipe{name: "closed", script: `mkdir -p a/b; echo x > a/b/c; chmod 000 a/b a .; touch $out`})
		if res, _ := l.build(d); res.Status != Built {
			t.Errorf("%d %q", res.Status, res.ErrorMsg)
		}
		l.checkClean()
	})
}

func TestLogFlood(t *testing.T) {
	l := newLab(t)
	l.set.KeepLog = false
	d := l.derive(recipe{name: "flood", script: `dd if=/dev/zero bs=1M count=5 2>/dev/null; echo; yes x | head -c 200000; touch $out`})
	sink := new(countSink)
	res, err := l.builder.Build(t.Context(), l.request(sink, d))
	if err != nil || res[0].Status != Built {
		t.Fatal(res, err)
	}
	if want := 5<<20/maxLogLine + 100000; sink.lines < want || sink.longest > maxLogLine {
		t.Errorf("%d lines, longest %d bytes; want %d", sink.lines, sink.longest, want)
	}
}

type countSink struct {
	discard
	lines, longest int
}

func (s *countSink) Result(_, typ uint64, fields []any) {
	if typ == ResBuildLogLine {
		s.lines++
		s.longest = max(s.longest, len(fields[0].(string)))
	}
}

// A builder of a fixed output shares the host's network, not its abstract sockets.
func TestAbstractSockets(t *testing.T) {
	l := newLab(t)
	abi, _, errno := unix.Syscall(444, 0, 0, 1)
	if errno != 0 || abi < 6 {
		t.Skip("needs Linux 6.12 with landlock")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	name := "@tvixd-test-" + marker()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	probe := buildProbe(t, l, `package main
import ("fmt"; "net"; "os")
func main() {
	_, err := net.Dial("unix", os.Args[1])
	fmt.Println("dial:", err)
	_, err = net.Listen("tcp", "127.0.0.1:0")
	fmt.Println("listen:", err)
}`)
	d := l.derive(recipe{name: "sockets", script: `/bin/probe ` + name + `; touch $out`,
		fixed: storepath.ContentAddress{Method: storepath.Flat, Hash: sha256("")}})
	l.set.SandboxPaths = append(l.set.SandboxPaths, SandboxPath{Target: "/bin/probe", Source: probe})
	res, sink := l.build(d)
	if res.Status != Built || !strings.Contains(sink.output(), "operation not permitted") || !strings.Contains(sink.output(), "listen: <nil>") {
		t.Errorf("%d %q %q", res.Status, res.ErrorMsg, sink.output())
	}
}
