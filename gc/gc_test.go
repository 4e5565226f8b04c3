package gc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/disk"
	castorememory "github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/internal/sqldb"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/pathinfo/memory"
	"github.com/tvixd/tvixd/pathinfo/sqlite"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// fixture is a store in memory, with its state in a temporary folder and
// nothing in place of /proc.
type fixture struct {
	t     testing.TB
	store *store.Store
	gc    *Collector
	state string
	proc  string

	mu  sync.Mutex
	log []string // guarded by mu
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	contents, infos := memoryServices(t)
	return newFixtureOn(t, contents, infos)
}

func memoryServices(testing.TB) (castore.Store, pathinfo.Service) {
	return castorememory.New(), memory.New()
}

// diskServices are on disk, with small packs.
func diskServices(t testing.TB) (castore.Store, pathinfo.Service) {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	db, err := sqldb.Open(filepath.Join(dir, "db"), sqldb.Options{ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	contents, err := disk.Open(ctx, disk.Options{Dir: filepath.Join(dir, "castore"), DB: db, PackBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { contents.Close() })
	infos, err := sqlite.New(ctx, db, nil)
	if err != nil {
		t.Fatal(err)
	}
	return contents, infos
}

func newFixtureOn(t testing.TB, contents castore.Store, infos pathinfo.Service) *fixture {
	t.Helper()
	f := &fixture{t: t, state: t.TempDir(), proc: t.TempDir()}
	f.store = store.New(store.Options{Castore: contents, PathInfo: infos})
	f.gc = New(Options{Store: f.store, StateDir: f.state, ProcDir: f.proc})
	if err := f.gc.Prepare(); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) message(_ int, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, text)
}

func (f *fixture) messages() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.log, "\n")
}

// pathOf is a path that nothing but its name decides.
func pathOf(name string) storepath.Path {
	p, err := storepath.New([20]byte(nixhash.Sum(nixhash.SHA1, []byte(name)).Bytes()), name)
	if err != nil {
		panic(err)
	}
	return p
}

// add makes a path valid whose contents are its name.
func (f *fixture) add(name string, refs ...storepath.Path) storepath.Path {
	f.t.Helper()
	return f.addInfo(pathinfo.PathInfo{Path: pathOf(name), References: refs})
}

func (f *fixture) addInfo(info pathinfo.PathInfo) storepath.Path {
	f.t.Helper()
	in, err := f.store.IngestFlat(context.Background(), strings.NewReader(info.Path.Name()), false)
	if err != nil {
		f.t.Fatal(err)
	}
	defer in.Release()
	info.Root, info.NarHash, info.NarSize = in.Root, in.NarHash, in.NarSize
	info.Normalise()
	if err := f.store.PathInfo().Register(context.Background(), []pathinfo.PathInfo{info}); err != nil {
		f.t.Fatal(err)
	}
	return info.Path
}

// root makes a link below gcroots to p.
func (f *fixture) root(name string, p storepath.Path) string {
	f.t.Helper()
	link := filepath.Join(f.state, "gcroots", name)
	f.symlink(f.full(p), link)
	return link
}

func (f *fixture) symlink(target, link string) {
	f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(target, link)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) write(name, contents string) {
	f.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(contents), 0o644)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) full(p storepath.Path) string { return f.store.Dir().Join(p) }

func (f *fixture) collect(req Request) Result {
	f.t.Helper()
	r, err := f.tryCollect(req)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (f *fixture) tryCollect(req Request) (Result, error) {
	if req.MaxFreed == 0 {
		req.MaxFreed = NoLimit
	}
	req.Log = f.message
	return f.gc.Collect(context.Background(), req)
}

func (f *fixture) valid() []storepath.Path {
	f.t.Helper()
	paths, err := f.store.PathInfo().Paths(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	return paths
}

func (f *fixture) wantValid(want ...storepath.Path) {
	f.t.Helper()
	f.wantPaths("valid paths", f.valid(), want...)
}

func (f *fixture) wantPaths(what string, got []storepath.Path, want ...storepath.Path) {
	f.t.Helper()
	want = storepath.SortUnique(slices.Clone(want))
	if !slices.Equal(got, want) {
		f.t.Errorf("%s: %v, wanted %v", what, names(got), names(want))
	}
}

func names(paths []storepath.Path) []string {
	var s []string
	for _, p := range paths {
		s = append(s, p.Name())
	}
	return s
}

func TestActions(t *testing.T) {
	f := newFixture(t)
	a := f.add("a")
	b := f.add("b", a)
	c := f.add("c", b, pathOf("c"))
	d := f.add("d")
	e := f.add("e", d)
	f.root("deep/er/root", b)

	f.wantPaths("live", f.collect(Request{Action: ReturnLive}).Paths, a, b)
	f.wantPaths("dead", f.collect(Request{Action: ReturnDead}).Paths, c, d, e)
	if !strings.Contains(f.messages(), "finding garbage collector roots...\ndetermining live/dead paths...") {
		t.Errorf("messages: %s", f.messages())
	}
	f.wantValid(a, b, c, d, e)

	r := f.collect(Request{Action: DeleteDead})
	f.wantPaths("deleted", r.Paths, c, d, e)
	f.wantValid(a, b)
	if r.BytesFreed == 0 {
		t.Error("nothing was freed")
	}
	for _, want := range []string{"deleting garbage...", "deleting '" + f.full(c) + "'"} {
		if !strings.Contains(f.messages(), want) {
			t.Errorf("messages lack %q: %s", want, f.messages())
		}
	}
	st, err := f.store.Castore().Stats(context.Background())
	if err != nil || st.Objects != 2 {
		t.Errorf("%d objects are left, wanted 2: %v", st.Objects, err)
	}
	f.wantPaths("deleted by the second collection", f.collect(Request{Action: DeleteDead}).Paths)
}

func TestRefusals(t *testing.T) {
	f := newFixture(t)
	a := f.add("a")
	for _, req := range []Request{
		{Action: DeleteSpecific, Paths: []storepath.Path{a}, IgnoreLiveness: true},
		{Action: DeleteSpecific + 1}, {Action: 1 << 40},
	} {
		if r, err := f.tryCollect(req); err == nil || len(r.Paths) > 0 {
			t.Errorf("%+v gave %v, %v", req, r, err)
		}
	}
	if _, err := f.tryCollect(Request{IgnoreLiveness: true}); !errors.Is(err, ErrIgnoreLiveness) {
		t.Errorf("ignoring liveness gave %v", err)
	}
	r, err := f.gc.Collect(context.Background(), Request{Action: DeleteDead, MaxFreed: 0})
	if err != nil || len(r.Paths) > 0 {
		t.Errorf("a limit of 0 gave %v, %v", r, err)
	}
	f.wantValid(a)
}

func TestDeleteSpecific(t *testing.T) {
	a, b, c, gone := pathOf("a"), pathOf("b"), pathOf("c"), pathOf("gone")
	var held storepath.Path // one that a lease holds, set by the cases
	for _, test := range []struct {
		name    string
		paths   []storepath.Path
		rooted  storepath.Path
		leased  storepath.Path
		deleted []storepath.Path
		alive   storepath.Path
	}{
		{"top", []storepath.Path{c}, storepath.Path{}, held, []storepath.Path{c}, storepath.Path{}},
		{"all", []storepath.Path{a, b, c}, storepath.Path{}, held, []storepath.Path{a, b, c}, storepath.Path{}},
		{"needed by another", []storepath.Path{b}, storepath.Path{}, held, nil, b},
		{"absent", []storepath.Path{gone}, storepath.Path{}, held, []storepath.Path{gone}, storepath.Path{}},
		{"rooted", []storepath.Path{c}, c, held, nil, c},
		{"in a rooted closure", []storepath.Path{a}, c, held, nil, a},
		{"leased", []storepath.Path{c}, storepath.Path{}, c, nil, c},
		{"absent and leased", []storepath.Path{gone}, storepath.Path{}, gone, nil, gone},
		{"nothing", nil, storepath.Path{}, held, nil, storepath.Path{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.add("a")
			f.add("b", a)
			f.add("c", b)
			if !test.rooted.IsZero() {
				f.root("r", test.rooted)
			}
			l := f.store.NewLease()
			defer l.Release()
			if !test.leased.IsZero() {
				l.Add(test.leased)
			}
			r, err := f.tryCollect(Request{Action: DeleteSpecific, Paths: test.paths})
			f.wantPaths("deleted", r.Paths, test.deleted...)
			var alive *AliveError
			switch {
			case test.alive.IsZero() && err != nil:
				t.Error(err)
			case !test.alive.IsZero() && (!errors.As(err, &alive) || alive.Path != f.full(test.alive)):
				t.Errorf("error %v, wanted one about %s", err, test.alive)
			case alive != nil && !strings.HasPrefix(err.Error(), "Cannot delete path '"+f.full(test.alive)+
				"' since it is still alive. To find out why, use: nix-store --query --roots"):
				t.Errorf("error %v", err)
			}
		})
	}
}

// A list with a path that is alive loses those before it, as with nix-daemon,
// and none after it.
func TestDeleteSpecificStopsAtTheLiving(t *testing.T) {
	f := newFixture(t)
	all := []storepath.Path{f.add("a"), f.add("b"), f.add("c"), f.add("d")}
	storepath.Sort(all)
	f.root("r", all[2])
	r, err := f.tryCollect(Request{Action: DeleteSpecific, Paths: []storepath.Path{all[3], all[2], all[1], all[0]}})
	var alive *AliveError
	if !errors.As(err, &alive) || alive.Path != f.full(all[2]) {
		t.Errorf("error %v", err)
	}
	f.wantPaths("deleted", r.Paths, all[0], all[1])
	f.wantValid(all[2], all[3])
}

func TestKeepSettings(t *testing.T) {
	for _, keepOutputs := range []bool{false, true} {
		for _, keepDerivations := range []bool{false, true} {
			t.Run(fmt.Sprintf("outputs=%v,derivations=%v", keepOutputs, keepDerivations), func(t *testing.T) {
				f := newFixture(t)
				keep := Request{Action: DeleteDead, KeepOutputs: keepOutputs, KeepDerivations: keepDerivations}
				src := f.add("src")
				drv := f.addInfo(pathinfo.PathInfo{
					Path: pathOf("x.drv"), References: []storepath.Path{src},
					Outputs: map[string]storepath.Path{"out": pathOf("x"), "dev": pathOf("x-dev"), "doc": pathOf("x-doc")},
				})
				out := f.addInfo(pathinfo.PathInfo{Path: pathOf("x"), Deriver: drv})
				dev := f.addInfo(pathinfo.PathInfo{Path: pathOf("x-dev"), Deriver: drv, References: []storepath.Path{out}})

				link := f.root("drv", drv)
				want := []storepath.Path{src, drv}
				if keepOutputs {
					want = append(want, out, dev)
				}
				dry := keep
				dry.Action = ReturnLive
				f.wantPaths("live by the derivation", f.collect(dry).Paths, want...)

				if err := os.Remove(link); err != nil {
					t.Fatal(err)
				}
				f.root("dev", dev)
				want = []storepath.Path{out, dev}
				if keepDerivations {
					want = append(want, drv, src)
				}
				f.wantPaths("live by the output", f.collect(dry).Paths, want...)

				// To delete a derivation by name, its outputs must not need it.
				_, err := f.tryCollect(Request{
					Action: DeleteSpecific, Paths: []storepath.Path{drv},
					KeepOutputs: keepOutputs, KeepDerivations: keepDerivations,
				})
				if (err != nil) != keepDerivations {
					t.Errorf("deleting the derivation: %v", err)
				}
				f.collect(keep)
				f.wantValid(want...)
			})
		}
	}
}

// The paths that were unused for longest go first, and a limit ends the
// collection.
func TestMaxFreed(t *testing.T) {
	f := newFixture(t)
	ctx := context.Background()
	now := time.Now()
	var paths []storepath.Path
	for i := range 20 {
		p := f.add(fmt.Sprintf("path-%02d", i))
		paths = append(paths, p)
		if err := f.store.PathInfo().Touch(ctx, []storepath.Path{p}, now.Add(time.Duration(i+1)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	user := f.add("user", paths[0]) // so that the oldest path cannot be the first
	if err := f.store.PathInfo().Touch(ctx, []storepath.Path{user}, now.Add(100*time.Hour)); err != nil {
		t.Fatal(err)
	}
	r := f.collect(Request{Action: DeleteDead, MaxFreed: 1})
	f.wantPaths("deleted with a limit of one byte", r.Paths, paths[1])
	if !strings.Contains(f.messages(), "deleted more than 1 bytes; stopping") {
		t.Errorf("messages: %s", f.messages())
	}
	// Contents are the names, of 7 bytes; the NARs that the rounds reckon
	// with are larger.
	r = f.collect(Request{Action: DeleteDead, MaxFreed: 20})
	f.wantPaths("deleted with a limit of 20 bytes", r.Paths, paths[2:5]...)
	f.collect(Request{Action: DeleteDead})
	f.wantValid()
}

func TestOneCollectionAtATime(t *testing.T) {
	f := newFixture(t)
	if err := f.gc.begin(context.Background(), f.message); err != nil {
		t.Fatal(err)
	}
	const waiting = "waiting for the big garbage collector lock..."
	said := make(chan struct{}, 1)
	done := make(chan error)
	go func() {
		_, err := f.gc.Collect(context.Background(), Request{Action: ReturnDead, MaxFreed: NoLimit, Log: func(level int, text string) {
			if text == waiting && level == levelError {
				said <- struct{}{}
			}
		}})
		done <- err
	}()
	<-said
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.gc.Collect(ctx, Request{Action: ReturnDead}); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that left while waiting: %v", err)
	}
	f.gc.end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
