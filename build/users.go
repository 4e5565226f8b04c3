package build

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tvixd/tvixd/build/sandbox"
)

// Isolated builds without build users run under uids of their own from this
// one on, which is where Nix takes automatic uids from. A daemon that uses one
// holds an abstract socket of its name, so that two daemons never use the same
// one, and a uid whose daemon was killed is free at once.
const (
	firstOwnUID = 872415232
	ownUIDs     = 1024
)

// buildUser is a user of the host that one build has for itself.
type buildUser struct {
	sandbox.User
	pool *userPool
	lock *os.File // of a member of a group: others may use it, too
}

// userPools hands out build users, by group. The pool "" has the uids above.
type userPools struct {
	lockDir string

	mu    sync.Mutex
	pools map[string]*userPool // guarded by mu
}

func newUserPools(stateDir string) *userPools {
	return &userPools{lockDir: filepath.Join(stateDir, "userpool"), pools: make(map[string]*userPool)}
}

// close gives back the uids that are ours.
func (p *userPools) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pool := range p.pools {
		pool.mu.Lock()
		for _, fd := range pool.sockets {
			unix.Close(fd)
		}
		clear(pool.sockets)
		clear(pool.clean)
		pool.mu.Unlock()
	}
}

// membersFor is how long what a group's members are is believed.
const membersFor = 10 * time.Second

// pool returns the pool of a group, whose members may change while we run.
func (p *userPools) pool(group string) (*userPool, error) {
	p.mu.Lock()
	pool := p.pools[group]
	if pool == nil {
		pool = &userPool{
			group: group, lockDir: p.lockDir,
			busy: make(map[uint32]bool), clean: make(map[uint32]bool), sockets: make(map[uint32]int),
			freed: make(chan struct{}),
		}
		p.pools[group] = pool
	}
	p.mu.Unlock()
	return pool, pool.refresh()
}

// userPool is the build users of one group.
type userPool struct {
	group   string
	lockDir string

	mu    sync.Mutex
	users []sandbox.User  // of a group; guarded by mu
	read  time.Time       // when users was read; guarded by mu
	busy  map[uint32]bool // by uid; guarded by mu
	clean map[uint32]bool // own uids that nothing else runs under; guarded by mu

	sockets map[uint32]int // of own uids that are ours; guarded by mu
	freed   chan struct{}  // closed when a user is given back; guarded by mu
}

func (p *userPool) refresh() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group == "" || time.Since(p.read) < membersFor {
		return nil
	}
	users, err := groupMembers(p.group)
	if err != nil {
		return err
	}
	p.users, p.read = users, time.Now()
	return nil
}

// errNoUser is what tryAcquire returns when all are busy.
var errNoUser = errors.New("no build user is free")

// acquire waits for a free user. It calls waiting once if it has to wait.
func (p *userPool) acquire(ctx context.Context, waiting func()) (*buildUser, error) {
	for first := true; ; first = false {
		u, freed, err := p.tryAcquire()
		if !errors.Is(err, errNoUser) {
			return u, err
		}
		if first {
			waiting()
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryAcquire takes a free user; every process that runs under it is killed. If
// there is none, the channel is closed when one may be.
func (p *userPool) tryAcquire() (_ *buildUser, freed <-chan struct{}, err error) {
	p.mu.Lock()
	freed = p.freed
	take := p.takeMember
	if p.group == "" {
		take = p.takeOwn
	}
	u, err := take()
	if err != nil || u == nil {
		p.mu.Unlock()
		return nil, freed, cmp.Or(err, errNoUser)
	}
	p.busy[u.UID] = true
	known := p.clean[u.UID]
	p.mu.Unlock()

	if !known {
		if err := sandbox.KillUser(u.User); err != nil {
			u.release()
			return nil, nil, fmt.Errorf("kill processes of uid %d: %w", u.UID, err)
		}
	}
	if p.group == "" {
		// Nobody else uses it, and what runs under it ends with its build.
		p.mu.Lock()
		p.clean[u.UID] = true
		p.mu.Unlock()
	}
	return u, nil, nil
}

// takeMember takes a member of the group that nobody uses, or nil. The caller
// holds mu.
func (p *userPool) takeMember() (*buildUser, error) {
	for _, c := range p.users {
		if p.busy[c.UID] {
			continue
		}
		lock, err := p.lock(c.UID)
		if err != nil {
			return nil, err
		}
		if lock != nil {
			return &buildUser{User: c, pool: p, lock: lock}, nil
		}
	}
	return nil, nil
}

// takeOwn takes one of our own uids, or nil. The caller holds mu.
func (p *userPool) takeOwn() (*buildUser, error) {
	for uid := uint32(firstOwnUID); uid < firstOwnUID+ownUIDs; uid++ {
		if p.busy[uid] {
			continue
		}
		if p.sockets[uid] == 0 {
			fd, err := claim(uid)
			if errors.Is(err, unix.EADDRINUSE) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("claim uid %d: %w", uid, err)
			}
			p.sockets[uid] = fd
		}
		return &buildUser{User: sandbox.User{Switch: true, UID: uid, GID: uid}, pool: p}, nil
	}
	return nil, nil
}

// claim binds the abstract socket that stands for a uid.
func claim(uid uint32) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@tvixd-build-uid-%d", uid)}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// lock takes the lock that keeps other daemons from using a uid, or returns
// nil when one does.
func (p *userPool) lock(uid uint32) (*os.File, error) {
	if err := os.MkdirAll(p.lockDir, 0o755); err != nil {
		return nil, fmt.Errorf("create folder of user locks: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(p.lockDir, strconv.FormatUint(uint64(uid), 10)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open user lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock user %d: %w", uid, err)
}

// release gives the user back. Nothing of the build may be left by then.
func (u *buildUser) release() {
	if u.lock != nil {
		u.lock.Close()
	}
	p := u.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, u.UID)
	close(p.freed)
	p.freed = make(chan struct{})
}

// groupMembers are the users of a group, as /etc/group lists them.
func groupMembers(name string) ([]sandbox.User, error) {
	gid, members, err := readGroup("/etc/group", name)
	if err != nil {
		return nil, err
	}
	if len(members) == 0 {
		return nil, failf(MiscFailure, "the build users group '%s' has no members", name)
	}
	users := make([]sandbox.User, 0, len(members))
	for _, m := range members {
		u, err := user.Lookup(m)
		if err != nil {
			return nil, failf(MiscFailure, "the user '%s' in the group '%s' does not exist", m, name)
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read uid of user '%s': %w", m, err)
		}
		if int(uid) == os.Getuid() || int(uid) == os.Geteuid() {
			return nil, failf(MiscFailure, "the Nix user should not be a member of '%s'", name)
		}
		su := sandbox.User{Switch: true, UID: uint32(uid), GID: gid}
		// A user's other groups, such as kvm, are the administrator's wish.
		ids, err := u.GroupIds()
		if err != nil {
			return nil, fmt.Errorf("read groups of user '%s': %w", m, err)
		}
		for _, id := range ids {
			g, err := strconv.ParseUint(id, 10, 32)
			if err == nil && uint32(g) != gid {
				su.Groups = append(su.Groups, uint32(g))
			}
		}
		users = append(users, su)
	}
	slices.SortStableFunc(users, func(a, b sandbox.User) int { return int(int64(a.UID) - int64(b.UID)) })
	return users, nil
}

func readGroup(file, name string) (gid uint32, members []string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, nil, fmt.Errorf("read groups: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		fields := strings.Split(sc.Text(), ":")
		if len(fields) < 4 || fields[0] != name {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			return 0, nil, fmt.Errorf("read gid of group '%s': %w", name, err)
		}
		for m := range strings.SplitSeq(fields[3], ",") {
			if m = strings.TrimSpace(m); m != "" {
				members = append(members, m)
			}
		}
		return uint32(id), members, nil
	}
	if err := sc.Err(); err != nil {
		return 0, nil, fmt.Errorf("read groups: %w", err)
	}
	return 0, nil, failf(MiscFailure, "the group '%s' specified in 'build-users-group' does not exist", name)
}
