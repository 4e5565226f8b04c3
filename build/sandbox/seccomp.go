package sandbox

import (
	"encoding/binary"
	"runtime"

	"golang.org/x/sys/unix"
)

// The filter is Nix's: no set-user-id and set-group-id bits, and no extended
// attributes and access lists, which a store object cannot have. The calls that
// read attributes are refused, too, so that programs which copy them (cp -a,
// tar) find none to copy.

// abi is a system call table that a process of this machine may use.
type abi struct {
	audit  uint32 // AUDIT_ARCH_
	mask   uint32 // bits of a call's number that tell something else
	chmods []chmodCall
	xattrs []uint32
}

// chmodCall is a call that sets a mode, and which argument the mode is.
type chmodCall struct{ nr, arg uint32 }

// Calls that are younger than the common numbering have the same number everywhere.
const (
	sysFchmodat2  = 452
	sysSetxattrat = 463
	sysGetxattrat = 464
)

var (
	abiX8664 = abi{
		audit: unix.AUDIT_ARCH_X86_64,
		mask:  ^uint32(0x40000000), // x32 uses the same numbers with this bit
		chmods: []chmodCall{
			{90, 1}, {91, 1}, {268, 2}, {sysFchmodat2, 2},
		},
		xattrs: []uint32{188, 189, 190, 191, 192, 193, sysSetxattrat, sysGetxattrat},
	}
	abiI386 = abi{
		audit:  unix.AUDIT_ARCH_I386,
		mask:   ^uint32(0),
		chmods: []chmodCall{{15, 1}, {94, 1}, {306, 2}, {sysFchmodat2, 2}},
		xattrs: []uint32{226, 227, 228, 229, 230, 231, sysSetxattrat, sysGetxattrat},
	}
	abiArm = abi{
		audit:  unix.AUDIT_ARCH_ARM,
		mask:   ^uint32(0),
		chmods: []chmodCall{{15, 1}, {94, 1}, {333, 2}, {sysFchmodat2, 2}},
		xattrs: []uint32{226, 227, 228, 229, 230, 231, sysSetxattrat, sysGetxattrat},
	}
)

// abiGeneric is the table of the architectures that came after 2011.
func abiGeneric(audit uint32) abi {
	return abi{
		audit:  audit,
		mask:   ^uint32(0),
		chmods: []chmodCall{{52, 1}, {53, 2}, {sysFchmodat2, 2}},
		xattrs: []uint32{5, 6, 7, 8, 9, 10, sysSetxattrat, sysGetxattrat},
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

// seccompFilter is the filter's BPF program, or nil on a machine for which
// there is none. A call of a foreign architecture kills the builder.
func seccompFilter(abis []abi) []unix.SockFilter {
	if len(abis) == 0 {
		return nil
	}
	var f []unix.SockFilter
	stmt := func(code uint16, k uint32) { f = append(f, unix.SockFilter{Code: code, K: k}) }
	jump := func(code uint16, k uint32, yes, no uint8) {
		f = append(f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | code, Jt: yes, Jf: no, K: k})
	}
	load := func(off uint32) { stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, off) }
	ret := func(k uint32) { stmt(unix.BPF_RET|unix.BPF_K, k) }

	load(seccompArch)
	for _, a := range abis {
		size := 2 + 2*len(a.xattrs) + 5*len(a.chmods) + 1
		jump(unix.BPF_JEQ, a.audit, 0, uint8(size))
		load(seccompNr)
		stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, a.mask)
		for _, nr := range a.xattrs {
			jump(unix.BPF_JEQ, nr, 0, 1)
			ret(seccompErrno | uint32(unix.ENOTSUP))
		}
		for _, c := range a.chmods {
			jump(unix.BPF_JEQ, c.nr, 0, 4)
			load(seccompArgs + 8*c.arg)
			jump(unix.BPF_JSET, unix.S_ISUID|unix.S_ISGID, 0, 1)
			ret(seccompErrno | uint32(unix.EPERM))
			ret(seccompAllow)
		}
		ret(seccompAllow)
	}
	ret(seccompKill)
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
