package nixconf

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// host has defaults that do not depend on the machine.
var host = Host{
	ConfDir: "/etc/nix", Processors: 6, Root: true, System: "x86_64-linux",
	ExtraPlatforms: []string{"i686-linux"}, SystemFeatures: []string{"benchmark", "kvm"}, BuildUsersGroup: "nixbld",
}

func TestDefaultsAreNixs(t *testing.T) {
	c := New(host)
	for name, want := range map[string]string{
		"allowed-users": "*", "build-users-group": "nixbld", "builders": "@/etc/nix/machines",
		"trusted-users": "root", "sandbox": "true", "sandbox-paths": "", "sandbox-build-dir": "/build",
		"max-jobs": "1", "cores": "0", "timeout": "0", "log-lines": "25", "require-sigs": "true",
		"substituters":        "https://cache.nixos.org/",
		"trusted-public-keys": "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
		"keep-outputs":        "false", "keep-derivations": "true", "max-free": "9223372036854775807",
		"gc-reserved-space": "8388608", "narinfo-cache-positive-ttl": "2592000", "netrc-file": "/etc/nix/netrc",
		"extra-platforms": "i686-linux", "system-features": "benchmark kvm", "sandbox-dev-shm-size": "50%",
		"build-poll-interval": "5", "ignored-acls": "security.csm security.selinux system.nfs4_acl",
	} {
		if got := value(t, c, name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func value(t *testing.T, c *Config, name string) string {
	t.Helper()
	s, _, ok := c.table.find(name)
	if !ok {
		t.Fatalf("no setting %s", name)
	}
	return s.print(&c.Settings)
}

func TestApply(t *testing.T) {
	for _, tc := range []struct{ text, name, want string }{
		{"cores = 4", "cores", "4"},
		{"cores=4\n", "cores", "error: syntax error in configuration line 'cores=4' in 'f'"},
		{"cores\n", "cores", "error: syntax error in configuration line 'cores' in 'f'"},
		{"cores is 4\n", "cores", "error: syntax error in configuration line 'cores is 4' in 'f'"},
		{"# nothing\n\n  \t\ncores\t=  7 # all of them\r\n", "cores", "7"},
		{"cores = many", "cores", "error: setting 'cores' has invalid value 'many'"},
		{"cores = -1", "cores", "error: setting 'cores' has invalid value '-1'"},
		{"cores =", "cores", "error: setting 'cores' has invalid value ''"},
		{"min-free = 3G", "min-free", "3221225472"},
		{"min-free = 3k", "min-free", "3072"},
		{"min-free = 3X", "min-free", "error: setting 'min-free' has invalid value '3X'"},
		{"min-free = 99999999999T", "min-free", "error: setting 'min-free' has invalid value '99999999999T'"},
		{"max-jobs = auto", "max-jobs", "6"},
		{"build-max-jobs = 3", "max-jobs", "3"},
		{"max-jobs = some", "max-jobs", "error: configuration setting 'max-jobs' should be 'auto' or an integer"},
		{"keep-going = yes", "keep-going", "true"},
		{"keep-going = 1", "keep-going", "true"},
		{"substitute = no", "substitute", "false"},
		{"keep-going = True", "keep-going", "error: Boolean setting 'keep-going' has invalid value 'True'"},
		{"build-use-sandbox = relaxed", "sandbox", "relaxed"},
		{"sandbox = maybe", "sandbox", "error: option 'sandbox' has invalid value 'maybe'"},
		{"timeout = 99999999999999999", "timeout", "9223372036"},
		{"sandbox-paths = /bin/sh=/bin/busybox /opt? /a=/b?", "sandbox-paths", "/a=/b? /bin/sh=/bin/busybox /opt?"},
		{"sandbox-paths = /a\nextra-sandbox-paths = /b /a=/c", "sandbox-paths", "/a /b"},
		{"trusted-users = a b\nextra-trusted-users = @wheel a", "trusted-users", "a b @wheel a"},
		{"system-features = z a z\nextra-system-features = m", "system-features", "a m z"},
		{"extra-substituters = file:///x", "substituters", "https://cache.nixos.org/ file:///x"},
		{"substituters =\n", "substituters", ""},
		{"sandbox-build-dir = ", "sandbox-build-dir", "error: setting 'sandbox-build-dir' is a path and paths cannot be empty"},
		{"sandbox-build-dir = b", "sandbox-build-dir", "error: setting 'sandbox-build-dir': not an absolute path: 'b'"},
		{"build-dir = /x//y/", "build-dir", "/x/y"},
		{"external-builders = [{]", "external-builders", "error: parsing setting 'external-builders': invalid JSON"},
		{"impure-env = A=1 B=2 junk A=3\nextra-impure-env = A=9 C=\nexperimental-features = configurable-impure-env", "impure-env", "A=1 B=2 C="},
	} {
		c := New(host)
		err := c.Apply(tc.text, "f")
		got := value(t, c, tc.name)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tc.want {
			t.Errorf("%q: %q, want %q", tc.text, got, tc.want)
		}
		if err == nil && len(c.TakeWarnings()) > 0 {
			t.Errorf("%q warns", tc.text)
		}
	}
}

func TestWarnings(t *testing.T) {
	c := New(host)
	err := c.Apply(`
zebra = 1
extra-cores = 3          # a number has nothing to append to
nix-path = x=y           # a client's
extra-nix-path = z=w
use-cgroups = true
frobnicate = yes
`, "f")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Ignoring setting 'use-cgroups' because experimental feature 'cgroups' is not enabled",
		"unknown setting 'extra-cores'", "unknown setting 'frobnicate'", "unknown setting 'zebra'",
	}
	if got := c.TakeWarnings(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if c.UseCgroups || c.TakeWarnings() != nil {
		t.Error("the feature took effect, or the warnings stayed")
	}
}

func TestInclude(t *testing.T) {
	dir := t.TempDir()
	write := func(name, contents string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(contents), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("nix.conf", "cores = 1\ninclude sub/more.conf\n!include absent.conf\nmax-jobs = 9\n")
	write("sub/more.conf", "cores = 2\nmax-jobs = 3\ninclude deep.conf\n")
	write("sub/deep.conf", "timeout = 5\n")
	h := host
	h.ConfDir = dir
	c, err := Load(h, func(name string) string {
		if name != "NIX_CONFIG" {
			t.Errorf("asked for %s", name)
		}
		return "keep-going = true\ncores = 4"
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Cores != 4 || c.MaxJobs != 9 || c.Timeout != 5*time.Second || !c.KeepGoing {
		t.Errorf("cores %d, jobs %d, timeout %v, keep going %v", c.Cores, c.MaxJobs, c.Timeout, c.KeepGoing)
	}

	none := func(string) string { return "" }
	write("nix.conf", "include gone.conf\n")
	if _, err := Load(h, none); err == nil || !strings.HasSuffix(err.Error(), "gone.conf' included from '"+dir+"/nix.conf' not found") {
		t.Errorf("missing include: %v", err)
	}
	write("nix.conf", "include nix.conf\n")
	if _, err := Load(h, none); err == nil || !strings.Contains(err.Error(), "too deeply") {
		t.Errorf("endless include: %v", err)
	}
	h.ConfDir = filepath.Join(dir, "nowhere")
	if _, err := Load(h, none); err != nil {
		t.Errorf("no nix.conf at all: %v", err)
	}
}

func TestCloneIsIndependent(t *testing.T) {
	a := New(host)
	b := a.Clone()
	for _, line := range []string{"extra-substituters = x", "extra-system-features = x", "extra-sandbox-paths = /x", "extra-trusted-users = x"} {
		if err := b.Apply(line, "f"); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(a.Settings, New(host).Settings) {
		t.Error("the origin changed")
	}
	if a.String() == b.String() {
		t.Error("the copy did not change")
	}
}

func TestChanged(t *testing.T) {
	c := New(host)
	if err := c.Apply("cores = 0\nmax-jobs = 2\nextra-trusted-users = a\nnix-path = x", "f"); err != nil {
		t.Fatal(err)
	}
	if got := c.Changed(); !reflect.DeepEqual(got, []string{"max-jobs", "trusted-users"}) {
		t.Errorf("changed: %q", got)
	}
}

func TestStringReadsBack(t *testing.T) {
	a := New(host)
	if err := a.Apply("sandbox = relaxed\nsandbox-paths = /a=/b? /c\ntimeout = 77\nmin-free = 1G\nexternal-builders = []", "f"); err != nil {
		t.Fatal(err)
	}
	b := New(Host{})
	if err := b.Apply(a.String(), "f"); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Errorf("printed\n%s\nread back as\n%s", a, b)
	}
}

func TestJSON(t *testing.T) {
	c := New(host)
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]struct {
		Value, DefaultValue any
		Aliases             []string
		Description         string
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if len(out) != len(c.table.sorted) {
		t.Errorf("%d settings, want %d", len(out), len(c.table.sorted))
	}
	for name, s := range out {
		if s.Description == "" || s.Aliases == nil {
			t.Errorf("%s lacks a description or aliases", name)
		}
	}
	if out["sandbox"].Value != true || out["build-poll-interval"].Value != 5.0 {
		t.Errorf("sandbox %v, build-poll-interval %v", out["sandbox"].Value, out["build-poll-interval"].Value)
	}
}

func FuzzApply(f *testing.F) {
	f.Add("cores = 4\n# x\nextra-sandbox-paths = /a=/b? ?\nimpure-env = =\n")
	f.Add("include \nsandbox = relaxed\x00")
	f.Add("timeout = 18446744073709551615T\nmax-jobs = auto")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") {
			t.Skip("reads files")
		}
		c := New(host)
		if c.Apply(text, "f") != nil {
			return
		}
		again := New(host)
		if err := again.Apply(c.String(), "f"); err != nil {
			t.Fatalf("printed settings are refused: %v", err)
		}
		if c.String() != again.String() {
			t.Fatalf("printed\n%s\nread back as\n%s", c, again)
		}
	})
}
