package build

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/storepath"
)

// The exit status is of everything that a request came to.
func TestExitStatus(t *testing.T) {
	l := newLab(t)
	l.set.KeepGoing = true
	bad := l.derive(recipe{name: "bad", script: `exit 1`})
	needs := l.derive(recipe{name: "needs", script: `touch $out`, inputs: []built{bad}})
	none := l.derive(recipe{name: "none", script: `:`})
	good := l.derive(recipe{name: "good", script: `touch $out`})
	wrong := l.derive(recipe{name: "wrong", script: `echo x > $out`,
		fixed: storepath.ContentAddress{Method: storepath.Flat, Hash: sha256("y")}})
	for _, c := range []struct {
		targets []built
		want    uint32
	}{
		{[]built{bad}, 100}, {[]built{needs}, 100}, {[]built{none}, 1}, {[]built{good}, 0}, {[]built{wrong}, 102},
		{[]built{good, none, wrong}, 102}, {[]built{none, bad}, 100},
	} {
		res, err := l.builder.Build(t.Context(), l.request(nil, c.targets...))
		if err != nil {
			t.Fatal(err)
		}
		var got uint32
		if f, ok := l.builder.Failure(res, discard{}).(*Error); ok {
			got = f.ExitStatus
		}
		if got != c.want || res[0].ExitStatus != c.want {
			t.Errorf("%v: %d and %d, want %d", c.targets[0].path, got, res[0].ExitStatus, c.want)
		}
	}
}

// heapSink counts lines and watches the heap.
type heapSink struct {
	mu sync.Mutex // guards what follows
	countSink
	next int
	most uint64
}

func (s *heapSink) Result(id, typ uint64, fields []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countSink.Result(id, typ, fields)
	if s.lines < s.next {
		return
	}
	s.next = s.lines + 500
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.most = max(s.most, m.HeapAlloc)
}

// 200 MB of log, without an end of line, pass through little memory.
func TestBigLog(t *testing.T) {
	l := newLab(t)
	const size = 200 << 20
	d := l.derive(recipe{name: "flood", script: `dd if=/dev/zero bs=1M count=` + fmt.Sprint(size>>20) + ` 2>/dev/null; touch $out`})
	sink := new(heapSink)
	res, err := l.builder.Build(t.Context(), l.request(sink, d))
	if err != nil || res[0].Status != Built {
		t.Fatal(res, err)
	}
	if sink.lines != size/maxLogLine || sink.most > 64<<20 {
		t.Errorf("%d lines, at most %d MiB of heap", sink.lines, sink.most>>20)
	}
	if log := l.logs(d); len(log) != 1 {
		t.Errorf("logs: %v", log)
	}
}

// A builder that fills the disk fails, and the disk is free again.
func TestDiskFilled(t *testing.T) {
	l := newLab(t)
	if err := l.builder.Close(); err != nil {
		t.Fatal(err)
	}
	l.builder = nil
	small := l.path("scratch")
	if err := os.MkdirAll(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tvixd", small, "tmpfs", 0, "size=16M"); err != nil {
		t.Skip("cannot mount: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	l.set.BuildDir = ""
	l.open()
	b := l.builder
	t.Cleanup(func() {
		l.builder = nil // its folder is gone before the lab looks
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	free := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Statfs(small, &st); err != nil {
			t.Fatal(err)
		}
		return st.Bavail * uint64(st.Bsize)
	}
	before := free()
	for name, script := range map[string]string{
		"build":  `dd if=/dev/zero of=$NIX_BUILD_TOP/x bs=64k`,
		"output": `mkdir $out; dd if=/dev/zero of=$out/x bs=64k`,
		"tmp":    `mkdir /tmp/a; dd if=/dev/zero of=/tmp/a/x bs=64k`,
		"files":  `i=0; while echo x > /tmp/$i; do i=$((i+1)); done; exit 1`,
	} {
		d := l.derive(recipe{name: name, script: script})
		res, sink := l.build(d)
		if res.Status != TransientFailure || !strings.Contains(res.ErrorMsg, "lack of free disk space") {
			t.Errorf("%s: %d %q\n%s", name, res.Status, res.ErrorMsg, sink.output())
		}
		if now := free(); now+256<<10 < before {
			t.Errorf("%s: %d bytes free, %d before", name, now, before)
		}
		// The next one has room.
		if ok := l.mustBuild(l.derive(recipe{name: name + "-after", script: `echo ok > $out`})); ok != "ok\n" {
			t.Errorf("%q", ok)
		}
	}
	if left, err := filepath.Glob(small + "/builds/*/*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
