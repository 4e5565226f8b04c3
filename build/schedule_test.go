package build

import (
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// waitFor waits until something is so, for as long as it takes a slow machine.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 6000 {
		if cond() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("waited in vain: ", what)
}

// gate is a file that a builder waits for.
func (l *lab) gate(name string) (script string, open func()) {
	dir := l.path("gate-" + name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		l.Fatal(err)
	}
	l.set.SandboxPaths = append(l.set.SandboxPaths, SandboxPath{Target: "/gate-" + name, Source: dir})
	return "while ! test -e /gate-" + name + "/open; do sleep 0.02; done\n", func() {
		if err := os.WriteFile(dir+"/open", nil, 0o644); err != nil {
			l.Error(err)
		}
	}
}

func TestTwoClientsShareABuild(t *testing.T) {
	l := newLab(t)
	wait, open := l.gate("a")
	d := l.derive(recipe{name: "shared", script: `echo early; ` + wait + `echo late; cat /proc/sys/kernel/random/uuid > $out`})
	sinks := [2]*recorder{{}, {}}
	var results [2]Result
	var wg sync.WaitGroup
	start := func(i int) {
		wg.Go(func() {
			res, err := l.builder.Build(context.Background(), l.request(sinks[i], d))
			if err != nil {
				t.Error(err)
				return
			}
			results[i] = res[0]
		})
	}
	start(0)
	waitFor(t, "first line", func() bool { return sinks[0].output() == "early" })
	start(1)
	// The second hears what was said before it came.
	waitFor(t, "replay", func() bool { return sinks[1].output() == "early" })
	open()
	wg.Wait()
	for i := range results {
		if results[i].Status != Built || sinks[i].output() != "early\nlate" || len(sinks[i].open) != 0 {
			t.Errorf("client %d: %+v, log %q, open %v", i, results[i], sinks[i].output(), sinks[i].open)
		}
	}
}

// Different derivations may make the same fixed output; one of them does.
func TestSharedFixedOutput(t *testing.T) {
	l := newLab(t)
	wait, open := l.gate("a")
	fixed := storepath.ContentAddress{Method: storepath.Flat, Hash: nixhash.Sum(nixhash.SHA256, []byte("same\n"))}
	script := "echo early; " + wait + "echo same > $out"
	a := l.derive(recipe{name: "same", script: script, fixed: fixed, env: map[string]string{"who": "a"}})
	b := l.derive(recipe{name: "same", script: script, fixed: fixed, env: map[string]string{"who": "b"}})
	if a.path == b.path || a.out("out") != b.out("out") {
		t.Fatalf("%v and %v make %v and %v", a.path, b.path, a.out("out"), b.out("out"))
	}
	sink := &recorder{}
	other := l.derive(recipe{name: "other", script: "echo > $out"})
	done := make(chan []Result)
	go func() {
		res, err := l.builder.Build(context.Background(), l.request(sink, a, b, other))
		if err != nil {
			t.Error(err)
		}
		done <- res
	}()
	// The slot that is left goes to a build that is not in the way.
	waitFor(t, "the other build", func() bool { return l.valid(other.out("out")) })
	open()
	statuses := map[Status]int{}
	for _, r := range <-done {
		statuses[r.Status]++
	}
	if statuses[Built] != 2 || statuses[AlreadyValid] != 1 {
		t.Errorf("statuses %v", statuses)
	}
}

func TestLastClientEndsABuild(t *testing.T) {
	l := newLab(t)
	wait, open := l.gate("a")
	m := marker()
	d := l.derive(recipe{name: "left", script: `echo begun; (exec sleep ` + m + `) & ` + wait + `touch $out`})
	var cancels [3]context.CancelFunc
	var errs [3]error
	var wg sync.WaitGroup
	for i := range cancels {
		var ctx context.Context
		ctx, cancels[i] = context.WithCancel(t.Context())
		sink := new(recorder)
		wg.Go(func() { _, errs[i] = l.builder.Build(ctx, l.request(sink, d)) })
		waitFor(t, "begin", func() bool { return sink.output() == "begun" })
	}
	cancels[0]()
	cancels[1]()
	waitFor(t, "two to leave", func() bool {
		l.builder.mu.Lock()
		defer l.builder.mu.Unlock()
		for _, j := range l.builder.jobs {
			return len(j.goals) == 1
		}
		return false
	})
	if processesWith(t, m) == 0 {
		t.Error("the build ended though somebody waits for it")
	}
	open()
	wg.Wait()
	cancels[2]()
	if !errors.Is(errs[0], context.Canceled) || !errors.Is(errs[1], context.Canceled) || errs[2] != nil {
		t.Errorf("errors %v", errs)
	}
	if !l.valid(d.out("out")) {
		t.Error("not built")
	}
}

func TestMaxJobsOverAllClients(t *testing.T) {
	l := newLab(t)
	wait, open := l.gate("a")
	const clients, each = 3, 4
	var wg sync.WaitGroup
	var sinks [clients]*recorder
	for c := range clients {
		sinks[c] = new(recorder)
		var ds []built
		for i := range each {
			ds = append(ds, l.derive(recipe{name: fmt.Sprintf("job-%d-%d", c, i), script: `echo begun; ` + wait + `touch $out`}))
		}
		wg.Go(func() {
			res, err := l.builder.Build(t.Context(), l.request(sinks[c], ds...))
			if err != nil {
				t.Error(err)
			}
			for _, r := range res {
				if r.Status != Built {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	running := func() int {
		l.builder.mu.Lock()
		defer l.builder.mu.Unlock()
		return l.builder.running
	}
	waitFor(t, "two builds", func() bool { return running() == 2 })
	waitFor(t, "requests", func() bool {
		l.builder.mu.Lock()
		defer l.builder.mu.Unlock()
		return len(l.builder.jobs) == clients*each
	})
	if n := running(); n != 2 {
		t.Errorf("%d builds run", n)
	}
	open()
	wg.Wait()
}

func TestNoJobs(t *testing.T) {
	l := newLab(t)
	l.set.MaxJobs = 0
	d := l.derive(recipe{name: "none", script: `touch $out`})
	_, err := l.builder.Build(t.Context(), l.request(nil, d))
	if err == nil || !strings.HasPrefix(err.Error(), "unable to start any build; either increase '--max-jobs'") {
		t.Error(err)
	}
}

func TestKeepGoing(t *testing.T) {
	l := newLab(t)
	l.set.MaxJobs = 1
	bad := l.derive(recipe{name: "a-bad", script: `exit 1`})
	good := l.derive(recipe{name: "b-good", script: `touch $out`})
	for _, keep := range []bool{false, true} {
		l.set.KeepGoing = keep
		sink := new(recorder)
		res, err := l.builder.Build(t.Context(), l.request(sink, bad, good))
		if err != nil {
			t.Fatal(err)
		}
		if l.valid(good.out("out")) != keep || res[0].Status != PermanentFailure || res[1].Status.OK() != keep {
			t.Errorf("keep-going %v: %+v", keep, res)
		}
		err = l.builder.Failure(res, sink)
		want := "builder for '" + l.store.Dir().Join(bad.path) + "' failed with exit code 1"
		if !keep {
			want = "build of '" + l.store.Dir().Join(bad.path) + "', '" + l.store.Dir().Join(good.path) + "' failed"
			if bad.path.Compare(good.path) > 0 {
				want = "build of '" + l.store.Dir().Join(good.path) + "', '" + l.store.Dir().Join(bad.path) + "' failed"
			}
		}
		if err == nil || plain(err.Error()) != want {
			t.Errorf("keep-going %v: %v\nwant %s", keep, err, want)
		}
	}
}

// A chain far longer than what recursion could take.
func TestDeepChain(t *testing.T) {
	l := newLab(t)
	const length = 10000
	d := l.derive(recipe{name: "leaf", script: `exit 1`})
	for i := range length {
		d = l.derive(recipe{name: "c" + strconv.Itoa(i), inputs: []built{d}, script: `touch $out`})
	}
	m, err := l.builder.Missing(t.Context(), []Target{{Drv: d.path}}, l.set)
	if err != nil || len(m.WillBuild) != length+1 {
		t.Errorf("%d to build, %v", len(m.WillBuild), err)
	}
	sink := new(recorder)
	res, err := l.builder.Build(t.Context(), l.request(sink, d))
	if err != nil || res[0].Status != DependencyFailed || len(sink.logs) != length {
		t.Errorf("%+v, %v, %d messages", res, err, len(sink.logs))
	}
}

func TestWantedOutputs(t *testing.T) {
	l := newLab(t)
	d := l.derive(recipe{name: "multi", outputs: []string{"out", "dev"}, script: `echo o > $out; echo d > $dev`})
	build := func(outputs ...string) Result {
		res, err := l.builder.Build(t.Context(), Request{Settings: l.set, Targets: []Target{{Drv: d.path, Outputs: outputs}}})
		if err != nil {
			t.Fatal(err)
		}
		return res[0]
	}
	res := build("nope")
	if want := "derivation '" + l.store.Dir().Join(d.path) + "' does not have wanted outputs 'nope'"; plain(res.ErrorMsg) != want {
		t.Errorf("%q", res.ErrorMsg)
	}
	if res := build("dev"); res.Status != Built || len(res.Outputs) != 1 || res.Outputs["dev"].Path != d.out("dev") {
		t.Errorf("%+v", res)
	}
	if res := build(); res.Status != AlreadyValid || len(res.Outputs) != 2 {
		t.Errorf("%+v", res)
	}
}

func TestBuildDerivation(t *testing.T) {
	l := newLab(t)
	d := l.derive(recipe{name: "basic", script: `echo basic > $out`})
	path, err := storepath.ParseBase("00000000000000000000000000000000-basic.drv")
	if err != nil {
		t.Fatal(err)
	}
	res, err := l.builder.BuildDerivation(t.Context(), path, d.drv, Request{Settings: l.set})
	if err != nil || res.Status != Built || l.read(d.out("out"), "") != "basic\n" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestMissingDerivation(t *testing.T) {
	l := newLab(t)
	path, err := storepath.ParseBase("00000000000000000000000000000000-none.drv")
	if err != nil {
		t.Fatal(err)
	}
	res, err := l.builder.Build(t.Context(), Request{Settings: l.set, Targets: []Target{{Drv: path}, {Path: path}}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "cannot build missing derivation '" + l.store.Dir().Join(path) + "'"; plain(res[0].ErrorMsg) != want {
		t.Errorf("%q", res[0].ErrorMsg)
	}
	m, err := l.builder.Missing(t.Context(), []Target{{Drv: path}}, l.set)
	if err != nil || len(m.Unknown) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestLogFile(t *testing.T) {
	l := newLab(t)
	for name, script := range map[string]string{
		"empty": `touch $out`, "small": `echo hello; touch $out`, "large": `seq 100000; touch $out`,
	} {
		for _, bz := range []bool{true, false} {
			l.set.CompressLog = bz
			d := l.derive(recipe{name: name + strconv.FormatBool(bz), script: script})
			_, sink := l.build(d)
			want := sink.output()
			if want != "" {
				want += "\n"
			}
			base := d.path.Base()
			got := readLog(t, l.path("logs/drvs/"+base[:2]+"/"+base[2:]), bz)
			if got != want {
				t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
			}
		}
	}
	d := l.derive(recipe{name: "added", script: ``})
	l.set.CompressLog = true
	if err := l.builder.AddLog(t.Context(), d.path, strings.NewReader("from elsewhere"), l.set); err != nil {
		t.Fatal(err)
	}
	if got := readLog(t, l.path("logs/drvs/"+d.path.Base()[:2]+"/"+d.path.Base()[2:]), true); got != "from elsewhere" {
		t.Errorf("%q", got)
	}
}

func readLog(t *testing.T, file string, bz bool) string {
	t.Helper()
	if bz {
		file += ".bz2"
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := io.Reader(f)
	if bz {
		r = bzip2.NewReader(f)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fakeCache has paths that it makes of their names.
type fakeCache struct {
	l     *lab
	has   map[storepath.Path][]storepath.Path // with references
	fails map[storepath.Path]bool

	mu      sync.Mutex
	fetched []string
}

func (c *fakeCache) Query(_ context.Context, paths []storepath.Path) (map[storepath.Path]Substitute, error) {
	found := make(map[storepath.Path]Substitute)
	for _, p := range paths {
		if refs, ok := c.has[p]; ok {
			found[p] = Substitute{Source: "fake://", References: refs, DownloadSize: 10, NarSize: 100}
		}
	}
	return found, nil
}

func (c *fakeCache) Fetch(ctx context.Context, p storepath.Path, _ Sink) error {
	if c.fails[p] {
		return errors.New("the network is down")
	}
	c.mu.Lock()
	c.fetched = append(c.fetched, p.Name())
	c.mu.Unlock()
	in, err := c.l.store.IngestFlat(ctx, strings.NewReader(p.Name()), false)
	if err != nil {
		return err
	}
	defer in.Release()
	return c.l.store.Register(ctx, []pathinfo.PathInfo{{
		Path: p, Root: in.Root, NarHash: in.NarHash, NarSize: in.NarSize, References: c.has[p],
	}})
}

func TestSubstitution(t *testing.T) {
	l := newLab(t)
	cache := &fakeCache{l: l, has: map[storepath.Path][]storepath.Path{}, fails: map[storepath.Path]bool{}}
	l.builder.subst = cache
	lib := l.derive(recipe{name: "lib", script: `exit 1`})
	app := l.derive(recipe{name: "app", inputs: []built{lib}, script: `exit 1`})
	user := l.derive(recipe{name: "user", inputs: []built{app}, script: `touch $out`})
	cache.has[lib.out("out")] = nil
	cache.has[app.out("out")] = []storepath.Path{lib.out("out")}

	m, err := l.builder.Missing(t.Context(), []Target{{Drv: user.path}}, l.set)
	if err != nil || len(m.WillBuild) != 1 || len(m.WillSubstitute) != 2 || m.DownloadSize != 20 || m.NarSize != 200 {
		t.Errorf("%+v, %v", m, err)
	}
	if res, _ := l.build(user); res.Status != Built {
		t.Errorf("%+v", res)
	}
	if got := strings.Join(cache.fetched, " "); got != "lib app" {
		t.Errorf("fetched %q", got)
	}
	if res, _ := l.build(app); res.Status != AlreadyValid {
		t.Errorf("%+v", res)
	}

	broken := l.derive(recipe{name: "broken", script: `touch $out`})
	cache.has[broken.out("out")] = nil
	cache.fails[broken.out("out")] = true
	res, sink := l.build(broken)
	if res.Status != TransientFailure || !strings.HasPrefix(res.ErrorMsg, "some substitutes for the outputs of derivation '") ||
		!strings.Contains(strings.Join(sink.logs, "\n"), "error: the network is down") {
		t.Errorf("%+v %v", res, sink.logs)
	}
	l.set.Fallback = true
	if res, _ := l.build(broken); res.Status != Built {
		t.Errorf("%+v", res)
	}
}

func TestClose(t *testing.T) {
	l := newLab(t)
	m := marker()
	d := l.derive(recipe{name: "endless", script: `echo begun; sleep ` + m})
	sink := new(recorder)
	done := make(chan error)
	go func() {
		_, err := l.builder.Build(context.Background(), l.request(sink, d))
		done <- err
	}()
	waitFor(t, "begin", func() bool { return sink.output() == "begun" })
	if err := l.builder.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if n := processesWith(t, m); n > 0 {
		t.Errorf("%d processes left", n)
	}
	if _, err := l.builder.Build(t.Context(), l.request(nil, d)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	l.open()
}
