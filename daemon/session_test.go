package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

func TestUntrustedClients(t *testing.T) {
	d := newDaemon(t, setup{trust: wp.NotTrusted})
	c := d.dial(t, 0)
	ctx := t.Context()
	if c.Info().Trust != wp.NotTrusted {
		t.Errorf("trust %v", c.Info().Trust)
	}
	drv, outputs := addDerivation(t, d, c, "plain", "out")
	info, archive := item(t, "unsigned", "contents")
	request := wp.AddToStoreNarRequest{Info: info, DontCheckSigs: true, Repair: true}
	request.Info.Ultimate = true
	wantError(t, "an unsigned path", c.AddToStoreNar(ctx, request, bytes.NewReader(archive)),
		"cannot add path '"+d.layout.Store.Join(info.Path)+"' because it lacks a signature by a trusted key")
	wantError(t, "unsigned paths", c.AddMultipleToStore(ctx, wp.AddMultipleToStoreRequest{DontCheckSigs: true}, 1,
		func(yield func(wp.Item) bool) { yield(wp.Item{Info: info, NAR: bytes.NewReader(archive)}) }), "lacks a signature")
	wantError(t, "signatures", c.AddSignatures(ctx, drv, []string{"a:b"}), "you are not privileged to add signatures")
	_, err := c.VerifyStore(ctx, false, true)
	wantError(t, "repair", err, "you are not privileged to repair paths")
	targets := []wp.DerivedPath{{Path: drv, All: true}}
	wantError(t, "repair mode", c.BuildPaths(ctx, targets, wp.BuildRepair), "repairing is not allowed because you are not in 'trusted-users'")
	_, err = c.BuildPathsWithResults(ctx, targets, wp.BuildRepair)
	wantError(t, "repair mode", err, "repairing is not allowed because you are not in 'trusted-users'")
	wantError(t, "a log", c.AddBuildLog(ctx, drv, strings.NewReader("lies")), "you are not privileged to add logs")
	_, err = c.AddPermRoot(ctx, drv, "/etc/passwd")
	wantError(t, "a permanent root", err, "you are not privileged to create perm roots")
	_, err = c.BuildDerivation(ctx, wp.BuildDerivationRequest{Path: drv, Derivation: wp.BasicDerivation{
		Outputs:  map[string]wp.BasicOutput{"out": {Path: d.layout.Store.Join(outputs["out"])}},
		Platform: "x86_64-linux", Builder: "/bin/sh", Env: map[string]string{"out": d.layout.Store.Join(outputs["out"])},
	}})
	wantError(t, "an input-addressed derivation", err, "you are not privileged to build input-addressed derivations")
	if _, err := c.FindRoots(ctx); err != nil {
		t.Errorf("roots: %v", err)
	}

	// Contents speak for themselves.
	ca := storepath.ContentAddress{Method: storepath.NAR, Hash: info.NarHash}
	path, err := d.layout.Store.FromContentAddress("by-contents", ca, storepath.References{})
	if err != nil {
		t.Fatal(err)
	}
	request.Info.Path, request.Info.CA = path, ca
	if err := c.AddToStoreNar(ctx, request, bytes.NewReader(archive)); err != nil {
		t.Errorf("a content-addressed path: %v", err)
	}
	if got, err := c.QueryPathInfo(ctx, path); err != nil || got == nil || got.Ultimate {
		t.Errorf("its info: %+v, %v", got, err)
	}
}

func TestSignedAdds(t *testing.T) {
	secret, public, err := signature.GenerateKeypair("mine", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, setup{trust: wp.NotTrusted, config: "trusted-public-keys = junk " + public.String()})
	c := d.dial(t, 0)
	info, archive := item(t, "signed", "contents")
	sig, err := secret.Sign(rand.Reader, fingerprint(d.layout.Store, &pathinfo.PathInfo{Path: info.Path, NarHash: info.NarHash, NarSize: info.NarSize}))
	if err != nil {
		t.Fatal(err)
	}
	info.Signatures = []string{"other:AAAA", sig.String()}
	if err := c.AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: info}, bytes.NewReader(archive)); err != nil {
		t.Errorf("a signed path: %v", err)
	}
	info, archive = item(t, "another", "contents")
	info.Signatures = []string{sig.String()}
	err = c.AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: info}, bytes.NewReader(archive))
	wantError(t, "with the signature of another path", err, "lacks a signature by a trusted key")
	if !strings.Contains(d.log.String(), "key=junk") {
		t.Error("no warning of a key that is none")
	}
}

func TestSignaturesNotRequired(t *testing.T) {
	d := newDaemon(t, setup{trust: wp.NotTrusted, config: "require-sigs = false"})
	info, archive := item(t, "unsigned", "contents")
	err := d.dial(t, 0).AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: info}, bytes.NewReader(archive))
	if err != nil {
		t.Error(err)
	}
}

func TestTrustedClientMayAskForTheCheck(t *testing.T) {
	d := newDaemon(t, setup{trust: wp.Trusted})
	info, archive := item(t, "unsigned", "contents")
	err := d.dial(t, 0).AddToStoreNar(t.Context(), wp.AddToStoreNarRequest{Info: info}, bytes.NewReader(archive))
	wantError(t, "without dontCheckSigs", err, "lacks a signature by a trusted key")
}

func TestNotAllowed(t *testing.T) {
	d := newDaemon(t, setup{config: "trusted-users =\nallowed-users = no-such-user"})
	_, err := wp.NewClient(t.Context(), d.dialRaw(t), wp.ClientOptions{Dir: d.layout.Store})
	wantError(t, "connect", err, "is not allowed to connect to the Nix daemon")
}

// spied is a handler for SetOptions that looks at what the session has got.
func spied(look func(*session)) map[wp.Op]handler {
	ops := maps.Clone(handlers)
	ops[wp.OpOptimiseStore] = answer(func(_ context.Context, s *session, _ *wp.EmptyRequest) (*wp.AckResponse, error) {
		look(s)
		return &wp.AckResponse{}, nil
	})
	return ops
}

func TestOptions(t *testing.T) {
	overrides := map[string]string{
		"timeout": "11", "max-silent-time": "12", "connect-timeout": "13", "build-poll-interval": "14", "builders": "",
		"sandbox": "true", "extra-sandbox-paths": "/x", "build-max-jobs": "99", "keep-outputs": "maybe",
		"substituters": "https://a/ https://b https://c", "experimental-features": "x", "plugin-files": "y", "ssh-auth-sock": "z",
		"of-the-future": "1", "extra-trusted-public-keys": nixosKey,
	}
	for _, trust := range []wp.Trust{wp.Trusted, wp.NotTrusted} {
		var got *session
		d := newDaemon(t, setup{
			trust: trust, ops: spied(func(s *session) { got = s }),
			config: "substituters = https://a/\ntrusted-substituters = https://b/\ntrusted-public-keys =",
		})
		var log strings.Builder
		c := d.dialLog(t, 0, func(m wp.LogMessage) { log.WriteString(m.Text) })
		request := wp.SetOptionsRequest{Verbosity: wp.LevelInfo, MaxBuildJobs: 5, BuildCores: 6, KeepGoing: true, Overrides: overrides}
		if err := c.SetOptions(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		if err := c.OptimiseStore(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"timeout": "11", "max-silent-time": "12", "connect-timeout": "13", "build-poll-interval": "14", "builders": "",
			"cores": "6", "keep-going": "true", "keep-outputs": "false", "experimental-features": "",
			"max-jobs": "5", "sandbox": "false", "sandbox-paths": "", "substituters": "https://a/ https://b/", "trusted-public-keys": "",
		}
		warnings := []string{"ignoring the client-specified setting 'sandbox'", "ignoring untrusted substituter 'https://c'"}
		if trust == wp.Trusted {
			maps.Copy(want, map[string]string{
				"max-jobs": "99", "sandbox": "true", "sandbox-paths": "/x", "substituters": "https://a/ https://b https://c",
				"trusted-public-keys": nixosKey,
			})
			warnings = []string{"Boolean setting 'keep-outputs' has invalid value 'maybe'"}
			if len(got.keys) != 1 {
				t.Errorf("%d keys", len(got.keys))
			}
		}
		for name, value := range want {
			if v, _ := got.config.Lookup(name); v != value {
				t.Errorf("trust %v: %s = %q, want %q", trust, name, v, value)
			}
		}
		for _, warning := range append(warnings, "Ignoring the client-specified plugin-files") {
			if !strings.Contains(log.String(), warning) {
				t.Errorf("trust %v: no warning %q in %q", trust, warning, &log)
			}
		}

		// Nobody else is affected.
		if err := d.dial(t, 0).OptimiseStore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if v, _ := got.config.Lookup("timeout"); v != "0" {
			t.Errorf("another client's timeout is %s", v)
		}
	}
}

// blocking is a handler that runs until its context ends, and tells what ended it.
func blocking(begun chan<- struct{}, ended chan<- error) map[wp.Op]handler {
	ops := maps.Clone(handlers)
	ops[wp.OpOptimiseStore] = answer(func(ctx context.Context, _ *session, _ *wp.EmptyRequest) (*wp.AckResponse, error) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	return ops
}

func TestHangupEndsTheOperation(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	d := newDaemon(t, setup{ops: blocking(begun, ended)})
	c := d.dial(t, 0)
	failed := make(chan error, 1)
	go func() { failed <- c.OptimiseStore(context.Background()) }()
	<-begun
	other := d.dial(t, 0)
	c.Close()
	if err := <-ended; !errors.Is(err, errHungUp) {
		t.Errorf("ended by %v", err)
	}
	<-failed
	if err := other.SyncWithGC(t.Context()); err != nil {
		t.Errorf("another client: %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	d := newDaemon(t, setup{ops: blocking(begun, ended)})
	idle, silent, busy := d.dial(t, 0), d.dialRaw(t), d.dial(t, 0)
	failed := make(chan error, 1)
	go func() { failed <- busy.OptimiseStore(context.Background()) }()
	<-begun
	d.Close()
	<-ended
	wantError(t, "the operation", <-failed, "the daemon is being stopped")
	if err := idle.SyncWithGC(t.Context()); err == nil {
		t.Error("an idle client is still served")
	}
	if n, err := silent.Read(make([]byte, 8)); err == nil {
		t.Errorf("a client that said nothing was sent %d bytes", n)
	}
}

func TestPanicCostsOneConnection(t *testing.T) {
	ops := maps.Clone(handlers)
	ops[wp.OpOptimiseStore] = func(context.Context, *session) error { panic("a mistake") }
	d := newDaemon(t, setup{ops: ops})
	if err := d.dial(t, 0).OptimiseStore(t.Context()); err == nil {
		t.Error("no error")
	}
	if err := d.dial(t, 0).SyncWithGC(t.Context()); err != nil {
		t.Errorf("another client: %v", err)
	}
	if !strings.Contains(d.log.String(), "a mistake") {
		t.Error("it was not logged")
	}
	d.log.Reset()
}

func TestRealisations(t *testing.T) {
	for _, trust := range []wp.Trust{wp.Trusted, wp.NotTrusted} {
		d := newDaemon(t, setup{trust: trust, config: "experimental-features = ca-derivations"})
		for _, minor := range []uint8{27, 31, 38} {
			c := d.dial(t, wp.MakeVersion(1, minor))
			added, err := c.AddToStore(t.Context(), wp.AddToStoreRequest{Name: "out", Method: storepath.Text, Algo: nixhash.SHA256}, strings.NewReader("out"))
			if err != nil {
				t.Fatal(err)
			}
			r := wp.Realisation{ID: wp.DrvOutput{Hash: nixhash.Sum(nixhash.SHA256, []byte{minor}), Output: "out"}, OutPath: added.Path}
			err = c.RegisterDrvOutput(t.Context(), r)
			if trust == wp.NotTrusted {
				wantError(t, "an unsigned realisation", err, "lacks a signature by a trusted key")
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.QueryRealisation(t.Context(), r.ID)
			if err != nil || got == nil || got.OutPath != r.OutPath {
				t.Errorf("1.%d: %+v, %v", minor, got, err)
			}
		}
	}
}

func TestBuildsThatNeedNoBuilder(t *testing.T) {
	d := newDaemon(t, setup{})
	c := d.dial(t, 0)
	ctx := t.Context()
	path := addUnsigned(t, c, "path", "contents")
	if err := c.BuildPaths(ctx, []wp.DerivedPath{{Path: path}}, wp.BuildNormal); err != nil {
		t.Errorf("a valid path: %v", err)
	}
	results, err := c.BuildPathsWithResults(ctx, []wp.DerivedPath{{Path: path}, {Path: pathFor(t, "absent")}}, wp.BuildNormal)
	if err != nil || len(results) != 2 || !results[0].Status.Success() || results[1].Status.Success() {
		t.Errorf("results %+v, %v", results, err)
	}
	if err := c.BuildPaths(ctx, []wp.DerivedPath{{Path: pathFor(t, "absent.drv"), All: true}}, wp.BuildNormal); err == nil {
		t.Error("an absent derivation was built")
	}
	err = c.BuildPaths(ctx, []wp.DerivedPath{{Path: pathFor(t, "a.drv"), Via: []string{"out"}, All: true}}, wp.BuildNormal)
	wantError(t, "a dynamic derivation", err, "is not supported")
}

// Newer clients name outputs by the derivation's path; it is the same output.
func TestRealisationsByPath(t *testing.T) {
	d := newDaemon(t, setup{config: "experimental-features = ca-derivations"})
	ctx := t.Context()
	c, err := wp.NewClient(ctx, d.dialRaw(t), wp.ClientOptions{Dir: d.layout.Store, Features: wp.AllFeatures})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Protocol().Features; got != wp.FeatureRealisationWithPath {
		t.Errorf("features %v", got)
	}
	drv, _ := addDerivation(t, d, c, "some", "out")
	path := addUnsigned(t, c, "path", "contents")
	id := wp.DrvOutput{Drv: drv, Output: "out"}
	if r, err := c.QueryRealisation(ctx, id); r != nil || err != nil {
		t.Errorf("before: %v, %v", r, err)
	}
	if err := c.RegisterDrvOutput(ctx, wp.Realisation{ID: id, OutPath: path}); err != nil {
		t.Fatal(err)
	}
	if r, err := c.QueryRealisation(ctx, id); err != nil || r == nil || r.OutPath != path {
		t.Errorf("after: %v, %v", r, err)
	}
	text, err := d.opts.Store.ReadDerivation(ctx, drv)
	if err != nil {
		t.Fatal(err)
	}
	modulo, err := d.opts.Store.Hasher().HashModulo(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	old := d.dial(t, 0)
	if r, err := old.QueryRealisation(ctx, wp.DrvOutput{Hash: modulo.Hash, Output: "out"}); err != nil || r == nil || r.OutPath != path {
		t.Errorf("by hash: %v, %v", r, err)
	}
	_, err = c.QueryRealisation(ctx, wp.DrvOutput{Drv: pathFor(t, "absent.drv"), Output: "out"})
	wantError(t, "of an absent derivation", err, "is not valid")
}
