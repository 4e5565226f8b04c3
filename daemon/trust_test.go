package daemon

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// fakeAccounts has users 1000 alice, 1001 bob, 1002 carol (wheel), 30001 builder (nixbld).
type fakeAccounts struct{}

func (fakeAccounts) UserName(uid uint32) string {
	return map[uint32]string{0: "root", 1000: "alice", 1001: "bob", 1002: "carol", 30001: "builder"}[uid]
}

func (fakeAccounts) GroupName(gid uint32) string {
	return map[uint32]string{0: "root", 100: "users", 10: "wheel", 30000: "nixbld"}[gid]
}

func (fakeAccounts) IsMember(user, group string) bool {
	return slices.Contains(map[string][]string{
		"wheel": {"carol"}, "nixbld": {"builder", "root"}, "users": {"alice", "bob"},
	}[group], user)
}

func TestJudge(t *testing.T) {
	list := func(s ...string) []string { return s }
	for _, tc := range []struct {
		what             string
		trusted, allowed []string
		uid, gid         uint32
		want             string // "trusted", "allowed" or "refused"
		name             string
	}{
		{"root by default", list("root"), list("*"), 0, 0, "trusted", "root"},
		{"anybody by default", list("root"), list("*"), 1000, 100, "allowed", "alice"},
		{"a number without a name", list("root"), list("*"), 4711, 4711, "allowed", "4711"},
		{"a number that is trusted as one", list("4711"), list(), 4711, 100, "trusted", "4711"},
		{"not on any list", list("root"), list("bob"), 1000, 100, "refused", "alice"},
		{"on the allowed list", list("root"), list("bob"), 1001, 100, "allowed", "bob"},
		{"trusted, though not allowed", list("alice"), list(), 1000, 100, "trusted", "alice"},
		{"trusted by membership", list("root", "@wheel"), list(), 1002, 100, "trusted", "carol"},
		{"trusted by primary group", list("root", "@wheel"), list(), 1000, 10, "trusted", "alice"},
		{"a group is no user", list("root", "wheel"), list("users"), 1002, 10, "refused", "carol"},
		{"a user is no group", list("@alice"), list("@alice"), 1000, 100, "refused", "alice"},
		{"an unknown group by number", list("@4712"), list("*"), 1000, 4712, "trusted", "alice"},
		{"everybody trusted", list("*"), list(), 4711, 4711, "trusted", "4711"},
		{"nobody", list(), list(), 0, 0, "refused", "root"},
		{"a builder by group", list("*"), list("*"), 1000, 30000, "refused", "alice"},
		{"a builder by membership", list("*"), list("*"), 30001, 100, "refused", "builder"},
		{"root among the builders", list("root"), list("*"), 0, 0, "trusted", "root"},
	} {
		a := Access{TrustedUsers: tc.trusted, AllowedUsers: tc.allowed, BuildUsersGroup: "nixbld"}
		name, trusted, err := a.judge(Peer{UID: tc.uid, GID: tc.gid}, fakeAccounts{})
		got := "allowed"
		var refused *NotAllowedError
		switch {
		case errors.As(err, &refused):
			got = "refused"
			if want := "user '" + tc.name + "' is not allowed to connect to the Nix daemon"; err.Error() != want {
				t.Errorf("%s: %q, want %q", tc.what, err, want)
			}
		case err != nil:
			t.Fatal(err)
		case trusted:
			got = "trusted"
		}
		if got != tc.want || name != tc.name {
			t.Errorf("%s: %s as %s, want %s as %s", tc.what, got, name, tc.want, tc.name)
		}
	}
}

func TestWithoutBuildersGroupNobodyIsABuilder(t *testing.T) {
	a := Access{AllowedUsers: []string{"*"}}
	if _, _, err := a.judge(Peer{UID: 30001, GID: 30000}, fakeAccounts{}); err != nil {
		t.Error(err)
	}
}

func TestPeerOf(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(shortDir(t), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := peerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	want := Peer{PID: int32(os.Getpid()), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if peer != want {
		t.Errorf("%+v, want %+v", peer, want)
	}
}

func TestSystemAccounts(t *testing.T) {
	var a SystemAccounts
	if name := a.UserName(0); name != "root" {
		t.Errorf("user 0 is %q", name)
	}
	if name := a.UserName(4294000000); name != "" {
		t.Errorf("user 4294000000 is %q", name)
	}
	if a.IsMember("root", "no-such-group") || a.IsMember("no-such-user", a.GroupName(0)) {
		t.Error("unknown ones are members")
	}
	if !a.IsMember("root", a.GroupName(0)) {
		t.Error("root is not in its own group")
	}
}

// shortDir is a temporary folder whose name leaves room in a socket address, whatever TMPDIR is.
func shortDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if len(dir) > 60 {
		short, err := os.MkdirTemp("/tmp", "tvixd")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(short) })
		return short
	}
	return dir
}
