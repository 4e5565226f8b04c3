package build

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	castorememory "github.com/tvixd/tvixd/castore/memory"
	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/nar"
	"github.com/tvixd/tvixd/nixhash"
	infomemory "github.com/tvixd/tvixd/pathinfo/memory"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

const busybox = "/bin/busybox"

// lab is a store in memory, shown in a plain folder, with a builder.
type lab struct {
	testing.TB
	dir     string
	store   *store.Store
	builder *Builder
	set     Settings
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces with mounts")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs busybox-static: ", err)
	}
}

// tempDir is a folder that others may enter, unlike t.TempDir's.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tvixd-build-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removePath(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newLab(t testing.TB) *lab {
	t.Helper()
	needRoot(t)
	l := &lab{TB: t, dir: tempDir(t)}
	storeDir := l.path("store")
	for _, d := range []string{"store", "logs", "state", "builds"} {
		if err := os.Mkdir(l.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.store = store.New(store.Options{
		Dir: storepath.Dir(storeDir), Castore: castorememory.New(), PathInfo: infomemory.New(),
	})
	l.store.Listen(store.Listener{Added: l.show})
	l.open()
	l.set = DefaultSettings("x86_64-linux")
	l.set.MaxJobs = 2
	l.set.BuildDir = l.path("builds")
	l.set.SandboxPaths = []SandboxPath{{Target: "/bin/sh", Source: busybox}}
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) open() {
	l.Helper()
	b, err := New(Options{
		Store: l.store, StateDir: l.path("state"), LogDir: l.path("logs"), ScratchDir: l.path("scratch"),
	})
	if err != nil {
		l.Fatal(err)
	}
	l.builder = b
	l.Cleanup(func() {
		if l.builder != b {
			return // the test closed it
		}
		if err := b.Close(); err != nil {
			l.Error(err)
		}
		l.checkClean()
	})
}

// show restores paths in the folder that stands for the mount.
func (l *lab) show(paths []storepath.Path) {
	for _, p := range paths {
		if p.IsDerivation() {
			continue // builders here do not look at them
		}
		target := l.store.Dir().Join(p)
		if _, err := os.Lstat(target); err == nil {
			continue
		}
		r, w := io.Pipe()
		go func() { w.CloseWithError(l.store.NARFromPath(context.Background(), p, w)) }()
		if err := nar.Restore(r, target); err != nil {
			l.Errorf("restore %s: %v", target, err)
		}
	}
}

// checkClean fails when something of a build was left behind.
func (l *lab) checkClean() {
	l.Helper()
	l.builder.scratch.mu.Lock()
	free := make(map[string]bool)
	for _, w := range l.builder.scratch.free {
		free[w.name] = true
	}
	l.builder.scratch.mu.Unlock()
	for _, dir := range []string{"scratch/builds", "scratch/shared/upper"} {
		left, err := os.ReadDir(l.path(dir))
		if err != nil && !os.IsNotExist(err) {
			l.Error(err)
		}
		for _, e := range left {
			if !free[e.Name()] {
				l.Errorf("left in the scratch folder: %s", e.Name())
			}
		}
	}
	for name := range free {
		left, err := os.ReadDir(l.path("scratch/builds/" + name))
		if err != nil || len(left) > 1 || len(left) == 1 && left[0].Name() != "names" {
			l.Errorf("left in the workspace: %v, %v", left, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), l.dir) {
		l.Errorf("left mounts of %s: %v", l.dir, err)
	}
}

// recorder is a Sink that remembers.
type recorder struct {
	mu      sync.Mutex
	next    uint64
	open    map[uint64]string
	started []string
	lines   []string
	logs    []string
	phases  []string
}

func (r *recorder) StartActivity(_ int, typ uint64, text string, fields []any, _ uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	if r.open == nil {
		r.open = make(map[uint64]string)
	}
	r.open[r.next] = text
	r.started = append(r.started, fmt.Sprintf("%d %s %v", typ, text, fields))
	return r.next
}

func (r *recorder) StopActivity(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
}

func (r *recorder) Result(_, typ uint64, fields []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch typ {
	case ResBuildLogLine:
		r.lines = append(r.lines, fields[0].(string))
	case ResSetPhase:
		r.phases = append(r.phases, fields[0].(string))
	}
}

func (r *recorder) Log(_ int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs = append(r.logs, plain(text))
}

func (r *recorder) output() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// plain drops colours.
func plain(s string) string {
	return strings.NewReplacer(ansiNormal, "", ansiBold, "", ansiRed, "", ansiMagenta, "").Replace(s)
}

// recipe is a derivation to be made, with a shell script as its builder.
type recipe struct {
	name    string
	script  string
	outputs []string // ["out"] when empty
	fixed   storepath.ContentAddress
	inputs  []built
	srcs    []storepath.Path
	env     map[string]string
	system  string
	builder string
}

// built is a derivation in the store.
type built struct {
	path storepath.Path
	drv  *derivation.Derivation
}

func (b built) out(name string) storepath.Path { return b.drv.Outputs[name].Path }

// tools is what scripts begin with: the shell knows its applets by itself.
const tools = "set -e\n"

func (l *lab) derive(r recipe) built {
	l.Helper()
	ctx := context.Background()
	d := &derivation.Derivation{
		Name: r.name, System: r.system, Builder: r.builder,
		Args: []string{"-c", tools + r.script}, Env: map[string]string{}, Outputs: map[string]derivation.Output{},
		InputDrvs: map[storepath.Path]derivation.InputOutputs{}, InputSrcs: r.srcs,
	}
	if d.System == "" {
		d.System = "x86_64-linux"
	}
	if d.Builder == "" {
		d.Builder = "/bin/sh"
		if l.set.Sandbox == SandboxOff {
			d.Builder = l.path("sh")
		}
	}
	for _, in := range r.inputs {
		d.InputDrvs[in.path] = derivation.InputOutputs{Outputs: in.drv.OutputNames()}
	}
	for k, v := range r.env {
		d.Env[k] = v
	}
	if len(r.outputs) == 0 {
		r.outputs = []string{"out"}
	}
	for _, o := range r.outputs {
		d.Env[o] = ""
		d.Outputs[o] = derivation.Output{Kind: derivation.Deferred}
		if !r.fixed.IsZero() {
			out, err := derivation.NewFixed(l.store.Dir(), r.name, o, r.fixed)
			if err != nil {
				l.Fatal(err)
			}
			d.Outputs[o] = out
		}
	}
	err := l.store.Hasher().Fill(d, func(p storepath.Path) (*derivation.Derivation, error) {
		return l.store.ReadDerivation(ctx, p)
	})
	if err != nil {
		l.Fatal(err)
	}
	p, err := l.store.AddText(ctx, r.name+".drv", d.Format(l.store.Dir()), d.References(), store.AddOptions{})
	if err != nil {
		l.Fatal(err)
	}
	return built{p, d}
}

// useHostShell prepares for builds that see the host's files.
func (l *lab) useHostShell() {
	l.Helper()
	l.set.Sandbox = SandboxOff
	if err := os.Symlink(busybox, l.path("sh")); err != nil {
		l.Fatal(err)
	}
}

func (l *lab) request(sink Sink, targets ...built) Request {
	r := Request{Settings: l.set, Sink: sink}
	for _, t := range targets {
		r.Targets = append(r.Targets, Target{Drv: t.path, Outputs: []string{"out"}})
	}
	return r
}

// build builds one derivation.
func (l *lab) build(b built) (Result, *recorder) {
	l.Helper()
	sink := new(recorder)
	res, err := l.builder.Build(context.Background(), l.request(sink, b))
	if err != nil {
		l.Fatal(err)
	}
	res[0].ErrorMsg = plain(res[0].ErrorMsg)
	if len(sink.open) != 0 {
		l.Errorf("activities left open: %v", sink.open)
	}
	return res[0], sink
}

// mustBuild builds one derivation and returns the contents of its output.
func (l *lab) mustBuild(b built) string {
	l.Helper()
	res, sink := l.build(b)
	if !res.Status.OK() {
		l.Fatalf("status %d: %s\n%s", res.Status, res.ErrorMsg, sink.output())
	}
	return l.read(b.out("out"), "")
}

func (l *lab) read(p storepath.Path, sub string) string {
	l.Helper()
	data, err := l.store.ReadFile(context.Background(), p, sub)
	if err != nil {
		l.Fatal(err)
	}
	return string(data)
}

func (l *lab) valid(p storepath.Path) bool {
	l.Helper()
	v, err := l.store.PathInfo().Valid(context.Background(), []storepath.Path{p})
	if err != nil {
		l.Fatal(err)
	}
	return len(v) == 1
}

func sha256(text string) nixhash.Hash { return nixhash.Sum(nixhash.SHA256, []byte(text)) }

// both runs a test with and without isolation.
func both(t *testing.T, f func(*testing.T, *lab)) {
	for _, isolated := range []bool{true, false} {
		t.Run(fmt.Sprint("isolated=", isolated), func(t *testing.T) {
			l := newLab(t)
			if !isolated {
				l.useHostShell()
			}
			f(t, l)
		})
	}
}
