package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	regFD register = iota // a descriptor of the few operations around
)

// null is a null pointer.
var null = num(0)

// isolated makes the builder's world. It runs as the daemon's user in fresh
// namespaces, and builds the new root folder below the current folder, so that
// every path but a mount's source is relative.
func (p *program) isolated(c *Config) {
	t := &tree{program: p, made: map[string]bool{".": true}}
	p.mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	p.mount("tvixd", c.Root, "tmpfs", 0, fmt.Sprintf("mode=0750,gid=%d", c.User.GID))
	p.call("enter the new root folder", unix.SYS_CHDIR, p.str(c.Root))

	t.bind(c.Build, c.Dir)
	t.bind(c.Temp, "/tmp")
	t.devices(c)
	t.store(c) // after what it might lie in
	t.mkdir("etc")
	for _, f := range c.Files {
		t.file(path.Join("etc", f.Name), f.Contents)
	}
	for _, m := range c.Mounts {
		t.show(m)
	}
	t.mkdir("proc")
	p.mount("proc", "proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")

	// The old root ends up on top of the new one, and the second call takes it away.
	dot := p.str(".")
	p.call("change the root folder", unix.SYS_PIVOT_ROOT, dot, dot)
	p.call("unmount the old root folder", unix.SYS_UMOUNT2, dot, num(unix.MNT_DETACH))
	p.call("enter the root folder", unix.SYS_CHDIR, p.str("/"))

	p.hostname("localhost")
	if !c.Network {
		p.loopback()
	}
}

// tree adds what the new root folder holds, making folders on the way.
type tree struct {
	*program
	made map[string]bool // relative paths
}

// rel turns an absolute path of the builder into one below the current folder.
func rel(target string) string {
	return strings.TrimPrefix(path.Clean("/"+target), "/")
}

// mkdir makes a folder and those above it, readable for everybody.
func (t *tree) mkdir(dir string) {
	if dir == "" || t.made[dir] {
		return
	}
	t.mkdir(parent(dir))
	t.made[dir] = true
	// A mounted folder may have it already.
	t.call("create folder '/"+dir+"'", unix.SYS_MKDIRAT, num(unix.AT_FDCWD), t.str(dir), num(0o755)).
		tolerate(0, unix.EEXIST)
}

func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

// bind shows a folder of the host.
func (t *tree) bind(source, target string) {
	t.mkdir(rel(target))
	t.mount(source, rel(target), "", unix.MS_BIND, "")
}

// show makes something of the host visible, with all that is mounted in it.
func (t *tree) show(m Mount) {
	at := rel(m.Target)
	switch {
	case m.Exists:
	case m.Kind == Directory:
		t.mkdir(at)
	case m.Kind == Regular:
		t.mkdir(parent(at))
		t.node(at, unix.S_IFREG|0o444, 0)
	default:
		t.mkdir(parent(at))
		t.symlink(m.Link, at)
		return
	}
	t.mount(m.Source, at, "", unix.MS_BIND|unix.MS_REC, "")
}

func (t *tree) node(at string, mode uint32, dev uint64) {
	t.call("create '/"+at+"'", unix.SYS_MKNODAT, num(unix.AT_FDCWD), t.str(at), num(mode), num(dev)).
		tolerate(0, unix.EEXIST)
}

func (t *tree) symlink(link, at string) {
	t.call("create link '/"+at+"'", unix.SYS_SYMLINKAT, t.str(link), num(unix.AT_FDCWD), t.str(at)).
		tolerate(0, unix.EEXIST)
}

// file writes a small file.
func (t *tree) file(at, contents string) {
	what := "write '/" + at + "'"
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	t.call(what, unix.SYS_OPENAT, num(unix.AT_FDCWD), t.str(at), num(flags), num(0o444)).into(regFD)
	t.call(what, unix.SYS_WRITE, reg(regFD), t.str(contents), num(len(contents)))
	t.call(what, unix.SYS_CLOSE, reg(regFD))
}

// store shows the inputs, and nothing else, in a store folder that takes the
// outputs. Inputs are bound from a read-only mount, whose flags they inherit:
// one call an input instead of two.
func (t *tree) store(c *Config) {
	const all = ".store"
	dir := rel(c.StoreDir)
	t.bind(c.Upper, c.StoreDir)
	if len(c.Inputs) == 0 {
		return
	}
	t.mkdir(all)
	t.mount(c.Store, all, "", unix.MS_BIND, "")
	t.mount("", all, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
	for _, in := range c.Inputs {
		at := dir + "/" + in.Base
		switch in.Kind {
		case Directory:
			t.call("create folder '/"+at+"'", unix.SYS_MKDIRAT, num(unix.AT_FDCWD), t.str(at), num(0o755)).
				tolerate(0, unix.EEXIST) // it may be there from another build
		case Regular:
			t.node(at, unix.S_IFREG|0o444, 0)
		case Symlink:
			t.symlink(in.Target, at)
			continue
		}
		t.mount(all+"/"+in.Base, at, "", unix.MS_BIND, "")
	}
	name := t.str(all)
	t.call("unmount the store", unix.SYS_UMOUNT2, name, num(unix.MNT_DETACH))
	t.call("remove folder '/"+all+"'", unix.SYS_UNLINKAT, num(unix.AT_FDCWD), name, num(unix.AT_REMOVEDIR))
}

// device is a node in the builder's /dev: character device, readable and
// writable for everybody.
type device struct {
	name         string
	major, minor uint32
}

var devices = []device{
	{"full", 1, 7}, {"null", 1, 3}, {"random", 1, 8}, {"tty", 5, 0}, {"urandom", 1, 9}, {"zero", 1, 5},
}

func (t *tree) devices(c *Config) {
	mounted := func(target string) bool {
		return slices.ContainsFunc(c.Mounts, func(m Mount) bool { return m.Target == target })
	}
	if mounted("/dev") {
		return
	}
	t.mkdir("dev")
	for _, d := range devices {
		at := "dev/" + d.name
		// Where a container may not make nodes, the host's are bound.
		t.call("create '/"+at+"'", unix.SYS_MKNODAT, num(unix.AT_FDCWD), t.str(at),
			num(uint32(unix.S_IFCHR|0o666)), num(unix.Mkdev(d.major, d.minor))).tolerate(0, unix.EPERM)
		t.call("create '/"+at+"'", unix.SYS_MKNODAT, num(unix.AT_FDCWD), t.str(at),
			num(uint32(unix.S_IFREG|0o444)), num(0)).tolerate(1, unix.EEXIST)
		t.mount("/"+at, at, "", unix.MS_BIND, "")
	}
	if c.KVM {
		t.node("dev/kvm", unix.S_IFREG|0o444, 0)
		t.mount("/dev/kvm", "dev/kvm", "", unix.MS_BIND, "")
	}
	t.symlink("/proc/self/fd", "dev/fd")
	t.symlink("/proc/self/fd/0", "dev/stdin")
	t.symlink("/proc/self/fd/1", "dev/stdout")
	t.symlink("/proc/self/fd/2", "dev/stderr")

	t.mkdir("dev/shm")
	if !mounted("/dev/shm") {
		opts := "mode=1777"
		if c.ShmSize != "" {
			opts += ",size=" + c.ShmSize
		}
		t.mount("tvixd", "dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts)
	}
	t.mkdir("dev/pts")
	if !mounted("/dev/pts") {
		t.mount("devpts", "dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,mode=0620,ptmxmode=0666")
		t.symlink("/dev/pts/ptmx", "dev/ptmx")
	}
}

// mount calls mount(2). Empty strings are null pointers.
func (p *program) mount(source, target, fstype string, flags uintptr, data string) *op {
	opt := func(s string) arg {
		if s == "" {
			return null
		}
		return p.str(s)
	}
	what := "mount '" + target + "'"
	if source != "" && fstype == "" {
		what = "bind mount '" + source + "' to '" + target + "'"
	}
	return p.call(what, unix.SYS_MOUNT, opt(source), p.str(target), opt(fstype), num(flags), opt(data))
}

func (p *program) hostname(name string) {
	p.call("set the host name", unix.SYS_SETHOSTNAME, p.str(name), num(len(name)))
	const none = "(none)" // the kernel's own
	p.call("set the domain name", unix.SYS_SETDOMAINNAME, p.str(none), num(len(none)))
}

// loopback brings up "lo" in a fresh network namespace.
func (p *program) loopback() {
	const what = "set up the loopback interface"
	var ifreq [40]byte // struct ifreq: name[16], flags
	copy(ifreq[:], "lo")
	binary.NativeEndian.PutUint16(ifreq[unix.IFNAMSIZ:], unix.IFF_UP|unix.IFF_LOOPBACK|unix.IFF_RUNNING)
	p.call(what, unix.SYS_SOCKET, num(unix.AF_INET), num(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), num(0)).into(regFD)
	p.call(what, unix.SYS_IOCTL, reg(regFD), num(unix.SIOCSIFFLAGS), p.bytes(ifreq[:]))
	p.call(what, unix.SYS_CLOSE, reg(regFD))
}

// structure is the memory of a fixed-size value.
func (p *program) structure(v any) arg {
	var b bytes.Buffer
	// Writing fixed-size values to a buffer cannot fail.
	_ = binary.Write(&b, binary.NativeEndian, v)
	return p.bytes(b.Bytes())
}
