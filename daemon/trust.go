package daemon

import (
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Peer is who sits at the other end of a connection, as the kernel tells it.
type Peer struct {
	PID      int32
	UID, GID uint32
}

// peerOf asks the kernel for the credentials that conn was opened with.
func peerOf(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = sockErr
	}
	if err != nil {
		return Peer{}, fmt.Errorf("ask for peer credentials: %w", err)
	}
	return Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}, nil
}

// Accounts looks users and groups up. Answers may take long where they come from a network.
type Accounts interface {
	// UserName and GroupName return a name, or "" for a number that has none.
	UserName(uid uint32) string
	GroupName(gid uint32) string
	// IsMember reports whether a user is listed in a group. False stands for unknown ones too.
	IsMember(user, group string) bool
}

// Access says who may connect, in the words of nix.conf.
type Access struct {
	TrustedUsers    []string
	AllowedUsers    []string
	BuildUsersGroup string
}

// A NotAllowedError refuses a user. Its text is nix-daemon's.
type NotAllowedError struct{ User string }

func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("user '%s' is not allowed to connect to the Nix daemon", e.User)
}

// judge names a peer and says whether it is trusted; the error is a *NotAllowedError.
//
// Members of the build users' group run what derivations say and are kept out, whatever else
// they are members of.
func (a Access) judge(p Peer, accounts Accounts) (name string, trusted bool, err error) {
	name, group := accounts.UserName(p.UID), accounts.GroupName(p.GID)
	if name == "" {
		name = strconv.FormatUint(uint64(p.UID), 10)
	}
	if group == "" {
		group = strconv.FormatUint(uint64(p.GID), 10)
	}
	matches := func(list []string) bool {
		return slices.ContainsFunc(list, func(entry string) bool {
			if wanted, isGroup := strings.CutPrefix(entry, "@"); isGroup {
				return wanted == group || accounts.IsMember(name, wanted)
			}
			return entry == "*" || entry == name
		})
	}
	trusted = matches(a.TrustedUsers)
	builds := a.BuildUsersGroup != "" &&
		(group == a.BuildUsersGroup || p.UID != 0 && accounts.IsMember(name, a.BuildUsersGroup))
	if builds || !trusted && !matches(a.AllowedUsers) {
		return name, false, &NotAllowedError{name}
	}
	return name, trusted, nil
}

// SystemAccounts are those of this machine, from wherever nsswitch.conf says.
type SystemAccounts struct{}

// UserName implements Accounts.
func (SystemAccounts) UserName(uid uint32) string {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return ""
	}
	return u.Username
}

// GroupName implements Accounts.
func (SystemAccounts) GroupName(gid uint32) string {
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10))
	if err != nil {
		return ""
	}
	return g.Name
}

// IsMember implements Accounts.
func (SystemAccounts) IsMember(name, group string) bool {
	g, err := user.LookupGroup(group)
	if err != nil {
		return false
	}
	u, err := user.Lookup(name)
	if err != nil {
		return false
	}
	groups, err := u.GroupIds()
	return err == nil && slices.Contains(groups, g.Gid)
}
