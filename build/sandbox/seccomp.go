package sandbox

import (
	"encoding/binary"
	"runtime"

	"golang.org/x/sys/unix"
)

// The filter refuses, on every way into the kernel that the machine has,
//
//   - set-user-id and set-group-id bits: by chmod(2) and its kin, as Nix does,
//     and by the calls that make a file with a mode. Not mkdir(2), which
//     ignores them. The mode of openat2(2) lies in memory, out of a filter's
//     sight, so the call is not there; its users fall back to openat(2);
//   - extended attributes and access lists, which a store object cannot have.
//     The calls that read them are refused, too, so that programs which copy
//     them (cp -a, tar) find none to copy; and inode flags;
//   - io_uring, whose requests pass every filter;
//   - keyrings and AF_VSOCK sockets, which no namespace separates. (i386's
//     socketcall(2) has its arguments in memory. It stays: the C library there
//     has no other way to a socket.)

// abi is a system call table that a process of this machine may use.
type abi struct {
	audit   uint32 // AUDIT_ARCH_
	mask    uint32 // bits of a call's number that tell something else
	modes   []modeCall
	opens   []modeCall // whose mode counts only when the argument before it says so
	xattrs  []uint32
	keys    []uint32
	ioctls  []uint32
	sockets []uint32
}

// modeCall is a call that sets a mode, and which argument the mode is.
type modeCall struct{ nr, arg uint32 }

// Calls that are younger than the common numbering have the same number everywhere.
const (
	sysIOUringSetup    = 425
	sysIOUringEnter    = 426
	sysIOUringRegister = 427
	sysOpenat2         = 437
	sysFchmodat2       = 452
	sysSetxattrat      = 463
	sysGetxattrat      = 464
	sysFileSetattr     = 469
)

var (
	abiX8664 = abi{
		audit: unix.AUDIT_ARCH_X86_64,
		mask:  ^uint32(0x40000000), // x32 uses the same numbers with this bit
		// chmod, fchmod, fchmodat, creat, mknod, mknodat
		modes:   []modeCall{{90, 1}, {91, 1}, {268, 2}, {85, 1}, {133, 1}, {259, 2}},
		opens:   []modeCall{{2, 2}, {257, 3}},
		xattrs:  []uint32{188, 189, 190, 191, 192, 193},
		keys:    []uint32{248, 249, 250},
		ioctls:  []uint32{16, 514}, // x32 has one of its own
		sockets: []uint32{41},
	}
	abiI386 = abi{
		audit:   unix.AUDIT_ARCH_I386,
		mask:    ^uint32(0),
		modes:   []modeCall{{15, 1}, {94, 1}, {306, 2}, {8, 1}, {14, 1}, {297, 2}},
		opens:   []modeCall{{5, 2}, {295, 3}},
		xattrs:  []uint32{226, 227, 228, 229, 230, 231},
		keys:    []uint32{286, 287, 288},
		ioctls:  []uint32{54},
		sockets: []uint32{359},
	}
	abiArm = abi{
		audit:   unix.AUDIT_ARCH_ARM,
		mask:    ^uint32(0),
		modes:   []modeCall{{15, 1}, {94, 1}, {333, 2}, {8, 1}, {14, 1}, {324, 2}},
		opens:   []modeCall{{5, 2}, {322, 3}},
		xattrs:  []uint32{226, 227, 228, 229, 230, 231},
		keys:    []uint32{309, 310, 311},
		ioctls:  []uint32{54},
		sockets: []uint32{281},
	}
)

// abiGeneric is the table of the architectures that came after 2011.
func abiGeneric(audit uint32) abi {
	return abi{
		audit:   audit,
		mask:    ^uint32(0),
		modes:   []modeCall{{52, 1}, {53, 2}, {33, 2}},
		opens:   []modeCall{{56, 3}},
		xattrs:  []uint32{5, 6, 7, 8, 9, 10},
		keys:    []uint32{217, 218, 219},
		ioctls:  []uint32{29},
		sockets: []uint32{198},
	}
}

func nativeABIs() []abi {
	switch runtime.GOARCH {
	case "amd64":
		return []abi{abiX8664, abiI386}
	case "386":
		return []abi{abiI386}
	case "arm64":
		return []abi{abiGeneric(unix.AUDIT_ARCH_AARCH64), abiArm}
	case "arm":
		return []abi{abiArm}
	case "riscv64":
		return []abi{abiGeneric(unix.AUDIT_ARCH_RISCV64)}
	case "loong64":
		return []abi{abiGeneric(unix.AUDIT_ARCH_LOONGARCH64)}
	}
	return nil
}

// Offsets in struct seccomp_data of a little-endian machine.
const (
	seccompNr   = 0
	seccompArch = 4
	seccompArgs = 16
)

const (
	seccompAllow = 0x7fff0000
	seccompErrno = 0x00050000
	seccompKill  = 0x80000000
)

// Values of arguments that are refused.
const (
	setIDs = unix.S_ISUID | unix.S_ISGID

	// Flags of open(2) with which it heeds its mode: O_CREAT and what
	// distinguishes O_TMPFILE.
	openMakes = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY

	fsSetFlags32 = 0x40046602 // FS_IOC32_SETFLAGS
	fsSetFlags64 = 0x40086602 // FS_IOC_SETFLAGS of 64-bit programs
	fsSetXattr   = 0x401c5820 // FS_IOC_FSSETXATTR
)

// assembler writes a BPF program.
type assembler []unix.SockFilter

func (f *assembler) stmt(code uint16, k uint32) { *f = append(*f, unix.SockFilter{Code: code, K: k}) }

func (f *assembler) jump(code uint16, k uint32, yes, no int) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | code, Jt: uint8(yes), Jf: uint8(no), K: k})
}

func (f *assembler) load(off uint32)  { f.stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, off) }
func (f *assembler) loadArg(n uint32) { f.load(seccompArgs + 8*n) } // the lower half: these are all ints
func (f *assembler) ret(k uint32)     { f.stmt(unix.BPF_RET|unix.BPF_K, k) }

func (f *assembler) refuse(e unix.Errno) { f.ret(seccompErrno | uint32(e)) }

// never refuses a call, whatever its arguments.
func (f *assembler) never(e unix.Errno, nrs ...uint32) {
	for _, nr := range nrs {
		f.jump(unix.BPF_JEQ, nr, 0, 1)
		f.refuse(e)
	}
}

// whenEqual refuses a call when an argument has one of some values.
func (f *assembler) whenEqual(e unix.Errno, nr, arg uint32, values ...uint32) {
	f.jump(unix.BPF_JEQ, nr, 0, 3+len(values))
	f.loadArg(arg)
	for i, v := range values {
		f.jump(unix.BPF_JEQ, v, len(values)-i, 0)
	}
	f.ret(seccompAllow)
	f.refuse(e)
}

// rules is the part of a table. The number of the call is loaded.
func (f *assembler) rules(a *abi) {
	f.stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, a.mask)
	f.never(unix.ENOTSUP, append([]uint32{sysSetxattrat, sysGetxattrat}, a.xattrs...)...)
	f.never(unix.ENOSYS, append([]uint32{
		sysIOUringSetup, sysIOUringEnter, sysIOUringRegister, sysOpenat2, sysFileSetattr,
	}, a.keys...)...)
	for _, c := range append([]modeCall{{sysFchmodat2, 2}}, a.modes...) {
		f.jump(unix.BPF_JEQ, c.nr, 0, 4)
		f.loadArg(c.arg)
		f.jump(unix.BPF_JSET, setIDs, 0, 1)
		f.refuse(unix.EPERM)
		f.ret(seccompAllow)
	}
	for _, c := range a.opens {
		f.jump(unix.BPF_JEQ, c.nr, 0, 6)
		f.loadArg(c.arg - 1)
		f.jump(unix.BPF_JSET, openMakes, 0, 3)
		f.loadArg(c.arg)
		f.jump(unix.BPF_JSET, setIDs, 0, 1)
		f.refuse(unix.EPERM)
		f.ret(seccompAllow)
	}
	for _, nr := range a.ioctls {
		// The answer of a file system that has no flags.
		f.whenEqual(unix.ENOTTY, nr, 1, fsSetFlags32, fsSetFlags64, fsSetXattr)
	}
	for _, nr := range a.sockets {
		f.whenEqual(unix.EAFNOSUPPORT, nr, 0, unix.AF_VSOCK)
	}
	f.ret(seccompAllow)
}

// seccompFilter is the filter's BPF program, or nil on a machine for which
// there is none. A call of a foreign architecture kills the builder.
func seccompFilter(abis []abi) []unix.SockFilter {
	if len(abis) == 0 {
		return nil
	}
	var f assembler
	f.load(seccompArch)
	for i := range abis {
		var part assembler
		part.load(seccompNr)
		part.rules(&abis[i])
		f.jump(unix.BPF_JEQ, abis[i].audit, 1, 0)
		f.stmt(unix.BPF_JMP|unix.BPF_JA, uint32(len(part))) // conditional jumps are too short
		f = append(f, part...)
	}
	f.ret(seccompKill)
	return f
}

// filter installs the seccomp filter. It needs no_new_privs or CAP_SYS_ADMIN.
func (p *program) filter() {
	f := seccompFilter(nativeABIs())
	if f == nil {
		return
	}
	var b []byte
	for _, i := range f {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	insns := p.bytes(b)
	fprog := p.bytes(binary.NativeEndian.AppendUint64(nil, uint64(len(f)))) // struct sock_fprog, padded
	p.data = append(p.data, make([]byte, 8)...)
	p.pointer(int(fprog.value)+8, insns.value)
	p.call("install the system call filter", unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(0), fprog)
}
