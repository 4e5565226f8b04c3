package sandbox

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// compile is the whole life of a builder's process up to its execve.
func compile(c *Config) (*program, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	p := new(program)
	p.dieWithParent()
	p.call("set the file mode mask", unix.SYS_UMASK, num(0))
	if c.Isolated {
		p.isolated(c)
	} else {
		p.visible(c)
	}
	p.call("start a session", unix.SYS_SETSID)
	p.limits(c)
	p.confine(c)
	p.identity(c)
	p.dieWithParent() // a change of uid takes it away
	p.call("enter folder '"+c.Dir+"'", unix.SYS_CHDIR, p.str(c.Dir))
	p.call("set the file mode mask", unix.SYS_UMASK, num(0o022))
	p.personality(c)
	p.signals()
	p.exec(c)
	return p, nil
}

func (c *Config) check() error {
	for _, m := range c.Mounts {
		if err := checkStrings("sandbox path", []string{m.Target, m.Source, m.Link}); err != nil {
			return err
		}
	}
	if err := checkStrings("the builder's program", []string{c.Builder, c.Dir, c.ShmSize}); err != nil {
		return err
	}
	if err := checkStrings("an argument of the builder", c.Args); err != nil {
		return err
	}
	return checkStrings("the builder's environment", c.Env)
}

// visible leaves the host's files in sight. The process stays behind as
// process 1 of the new process namespace, whose end is the end of all others,
// and the builder is its child.
func (p *program) visible(c *Config) {
	p.call("enter the builders' mount namespace", unix.SYS_SETNS, num(worldFD), num(unix.CLONE_NEWNS))
	p.call("create a mount namespace", unix.SYS_UNSHARE, num(unix.CLONE_NEWNS))
	// A remount makes the overlay forget what it knows of names that are not
	// in use: they may be of paths that were made or removed in the mount
	// below, and of outputs of earlier builds.
	p.mount("", c.StoreDir, "", unix.MS_REMOUNT, "")
	p.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	p.call("fork", opFork)
}

// escapeOverlay writes a path as overlayfs reads it in its options.
func escapeOverlay(path string) string {
	out := make([]byte, 0, len(path))
	for i := range len(path) {
		switch path[i] {
		case '\\', ':', ',':
			out = append(out, '\\')
		}
		out = append(out, path[i])
	}
	return string(out)
}

func (p *program) dieWithParent() {
	p.call("ask for an end with the daemon", unix.SYS_PRCTL, num(unix.PR_SET_PDEATHSIG), num(int(unix.SIGKILL)))
}

func (p *program) limits(c *Config) {
	set := func(what string, resource int, lim unix.Rlimit) {
		p.call("set the limit of "+what, unix.SYS_PRLIMIT64, num(0), num(resource), p.structure(lim), null).
			tolerate(0, unix.EPERM)
	}
	set("core dumps", unix.RLIMIT_CORE, unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY})
	if c.MaxProcesses != 0 {
		set("processes", unix.RLIMIT_NPROC, unix.Rlimit{Cur: c.MaxProcesses, Max: c.MaxProcesses})
	}
}

const (
	personalityNoRandomize = 0x0040000 // ADDR_NO_RANDOMIZE

	// PersonalityLinux32 makes uname(2) tell a 32-bit machine.
	PersonalityLinux32 = 0x8
	// PersonalityUname26 makes it tell Linux 2.6.
	PersonalityUname26 = 0x0020000
)

func (p *program) personality(c *Config) {
	p.call("set the personality", unix.SYS_PERSONALITY, num(c.Personality|personalityNoRandomize))
}

// signals makes every signal do its default, whatever the daemon's parent
// had ignored.
func (p *program) signals() {
	const nsig, setSize = 32, 8
	def := p.bytes(make([]byte, 32)) // struct sigaction: SIG_DFL, no flags, no mask
	for s := 1; s < nsig; s++ {
		if s != int(unix.SIGKILL) && s != int(unix.SIGSTOP) {
			p.call("reset a signal", unix.SYS_RT_SIGACTION, num(s), def, null, num(setSize))
		}
	}
	p.call("unblock signals", unix.SYS_RT_SIGPROCMASK, num(unix.SIG_SETMASK), def, null, num(setSize))
}

// identity takes away the daemon's user, groups and capabilities.
func (p *program) identity(c *Config) {
	if !c.User.Switch {
		return
	}
	groups := make([]byte, 0, 4*len(c.User.Groups))
	if !c.Isolated {
		for _, g := range c.User.Groups {
			groups = binary.NativeEndian.AppendUint32(groups, g)
		}
	}
	p.call("set the groups", unix.SYS_SETGROUPS, num(len(groups)/4), p.bytes(groups))
	gid, uid := num(c.User.GID), num(c.User.UID)
	p.call("set the group", unix.SYS_SETRESGID, gid, gid, gid)
	if c.Isolated && c.UserNamespace {
		p.userNamespace(c)
		return
	}
	p.call("set the user", unix.SYS_SETRESUID, uid, uid, uid)
}

// userNamespace makes the builder's user look like another one. The namespace
// is made by that user, who may map itself without help from outside, while it
// still holds CAP_SYS_ADMIN, without which some kernels refuse.
func (p *program) userNamespace(c *Config) {
	uid := num(c.User.UID)
	p.call("keep capabilities", unix.SYS_PRCTL, num(unix.PR_SET_KEEPCAPS), num(1))
	p.call("set the user", unix.SYS_SETRESUID, uid, uid, uid)
	p.capabilities(1 << unix.CAP_SYS_ADMIN)
	// The change of user made /proc/self root's, so that the maps could not be
	// written. There are no secrets in this process.
	p.call("make the process dumpable", unix.SYS_PRCTL, num(unix.PR_SET_DUMPABLE), num(1))
	p.call("create a user namespace", unix.SYS_UNSHARE, num(unix.CLONE_NEWUSER))
	p.proc("setgroups", "deny")
	p.proc("uid_map", fmt.Sprintf("%d %d 1\n", c.InsideUID, c.User.UID))
	p.proc("gid_map", fmt.Sprintf("%d %d 1\n", c.InsideGID, c.User.GID))
	p.capabilities(0)
}

// capabilities sets the effective and permitted capabilities below number 32
// and drops all others.
func (p *program) capabilities(low uint32) {
	type data struct{ Effective, Permitted, Inheritable uint32 }
	hdr := p.structure(unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3})
	p.call("set capabilities", unix.SYS_CAPSET, hdr, p.structure([2]data{{low, low, 0}, {}}))
}

// proc writes to a file of the process's own /proc folder.
func (p *program) proc(name, contents string) {
	what := "write '/proc/self/" + name + "'"
	p.call(what, unix.SYS_OPENAT, num(unix.AT_FDCWD), p.str("/proc/self/"+name),
		num(unix.O_WRONLY|unix.O_CLOEXEC), num(0)).into(regFD)
	p.call(what, unix.SYS_WRITE, reg(regFD), p.str(contents), num(len(contents)))
	p.call(what, unix.SYS_CLOSE, reg(regFD))
}

// confine makes sure that no program of the builder gets more than it has. It
// comes before the change of user, whose capabilities a filter needs when new
// privileges are allowed.
func (p *program) confine(c *Config) {
	if !c.AllowNewPrivileges {
		p.call("forbid new privileges", unix.SYS_PRCTL, num(unix.PR_SET_NO_NEW_PRIVS), num(1), num(0), num(0), num(0))
	}
	if c.Isolated && c.Network {
		p.scopeSockets()
	}
	if c.FilterSyscalls {
		p.filter()
	}
}

// scopeSockets keeps a builder in the host's network away from the abstract
// sockets of processes outside its sandbox. Kernels before 6.12 cannot; a
// builder there may talk to a program that waits for it, but what it hands over
// (a descriptor of its output) is of no use, since outputs are copied when the
// builder is dead and hashed as they are copied.
func (p *program) scopeSockets() {
	const (
		createRuleset       = 444
		restrictSelf        = 446
		scopeAbstractSocket = 1
	)
	attr := p.structure([3]uint64{0, 0, scopeAbstractSocket}) // struct landlock_ruleset_attr
	p.call("create a landlock ruleset", createRuleset, attr, num(24), num(0)).into(regFD).tolerate(2)
	p.call("apply landlock", restrictSelf, reg(regFD), num(0)).tolerate(0, unix.EPERM)
	p.call("close the landlock ruleset", unix.SYS_CLOSE, reg(regFD))
}

func (p *program) exec(c *Config) {
	p.call("mark the report pipe", unix.SYS_FCNTL, num(reportFD), num(unix.F_SETFD), num(unix.FD_CLOEXEC))
	p.call("close descriptors", unix.SYS_CLOSE_RANGE, num(reportFD+1), num(^uint32(0)), num(0)).
		tolerate(0, unix.ENOSYS) // before Linux 5.9; Go marks all descriptors that it opens
	p.call("execute '"+c.Builder+"'", unix.SYS_EXECVE, p.str(c.Builder), p.strs(c.Args), p.strs(c.Env))
}
