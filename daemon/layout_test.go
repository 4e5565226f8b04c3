package daemon

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/storepath"
)

func layoutIn(dir string) Layout {
	return Layout{
		Store:    storepath.Dir(filepath.Join(dir, "store")),
		StateDir: filepath.Join(dir, "var/nix"),
		LogDir:   filepath.Join(dir, "var/log/nix"),
		Socket:   filepath.Join(dir, "var/nix/daemon-socket/socket"),
	}
}

func TestLayoutFromEnv(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	l, err := LayoutFromEnv(env())
	if err != nil {
		t.Fatal(err)
	}
	if want := (Layout{"/nix/store", "/nix/var/nix", "/nix/var/log/nix", "/nix/var/nix/daemon-socket/socket"}); l != want {
		t.Errorf("%+v, want %+v", l, want)
	}
	l, err = LayoutFromEnv(env("NIX_STORE_DIR", "/a//store/", "NIX_STATE_DIR", "/b/./state", "NIX_LOG_DIR", "/c"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Layout{"/a/store", "/b/state", "/c", "/b/state/daemon-socket/socket"}); l != want {
		t.Errorf("%+v, want %+v", l, want)
	}
	if l, err = LayoutFromEnv(env("NIX_DAEMON_SOCKET_PATH", "/s")); err != nil || l.Socket != "/s" {
		t.Errorf("socket %q, %v", l.Socket, err)
	}
	for _, name := range []string{"NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_DAEMON_SOCKET_PATH"} {
		if _, err := LayoutFromEnv(env(name, "relative")); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("a relative %s: %v", name, err)
		}
	}
	if _, err := LayoutFromEnv(env("NIX_STORE_DIR", "/")); err == nil {
		t.Error("the root folder is a store")
	}
}

func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	l := layoutIn(dir)
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for range 2 { // the second time everything is there
		if err := l.Prepare(logger); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"temproots", "db", "../log/nix/drvs", "daemon-socket"} {
		info, err := os.Stat(filepath.Join(l.StateDir, name))
		if err != nil {
			t.Error(err)
		} else if !info.IsDir() || info.Mode().Perm() != 0o755 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	if schema, err := os.ReadFile(filepath.Join(l.StateDir, "db/schema")); err != nil || string(schema) != "1000000" {
		t.Errorf("schema %q, %v", schema, err)
	}
	if log.Len() > 0 {
		t.Errorf("it warns: %s", &log)
	}
}

func TestGuardKeepsTheNumberOfANixDatabase(t *testing.T) {
	l := layoutIn(t.TempDir())
	db := filepath.Join(l.StateDir, "db")
	if err := os.MkdirAll(db, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(db, "schema"), []byte("10"), 0o644); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	if err := l.Prepare(slog.New(slog.NewTextHandler(&log, nil))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"schema": "1000000", "schema.nix": "10"} {
		if got, err := os.ReadFile(filepath.Join(db, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	if !strings.Contains(log.String(), "another Nix store") {
		t.Errorf("no warning: %s", &log)
	}
}

func TestRefuseInside(t *testing.T) {
	dir := t.TempDir()
	l := layoutIn(dir)
	if err := l.PrepareMountPoint(true); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(string(l.Store), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, inside := range map[string]bool{
		"data": false, "store": true, "store/data/deep": true, "store2": false, "link": true,
		"link/data": true, "nowhere/at/all": false, "store/../data": false,
	} {
		err := l.RefuseInside("data folder", filepath.Join(dir, name))
		if (err != nil) != inside {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRequireEmpty(t *testing.T) {
	l := layoutIn(t.TempDir())
	if err := l.PrepareMountPoint(true); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(string(l.Store), ".links"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.RequireEmpty(); err != nil {
		t.Errorf("with .links alone: %v", err)
	}
	if err := os.Mkdir(filepath.Join(string(l.Store), "path"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.RequireEmpty(); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("with a path: %v", err)
	}
}

func TestMountPointMustNotBeReachedByALink(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "nix")); err != nil {
		t.Fatal(err)
	}
	l := Layout{Store: storepath.Dir(filepath.Join(dir, "nix/store"))}
	if err := l.PrepareMountPoint(false); err == nil || !strings.Contains(err.Error(), "is a symlink") {
		t.Errorf("got %v", err)
	}
	if err := l.PrepareMountPoint(true); err != nil {
		t.Error(err)
	}
}
