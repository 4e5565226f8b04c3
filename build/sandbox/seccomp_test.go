package sandbox

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// evaluate runs a filter on a call.
func evaluate(t *testing.T, f []unix.SockFilter, arch, nr uint32, args [6]uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.LittleEndian.PutUint32(data[seccompNr:], nr)
	binary.LittleEndian.PutUint32(data[seccompArch:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[seccompArgs+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(f); pc++ {
		i := f[pc]
		skip := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			skip(acc == i.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			skip(acc&i.K != 0)
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, i.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func TestSeccompFilter(t *testing.T) {
	const eperm, enotsup = seccompErrno | uint32(unix.EPERM), seccompErrno | uint32(unix.ENOTSUP)
	const enosys, enotty = seccompErrno | uint32(unix.ENOSYS), seccompErrno | uint32(unix.ENOTTY)
	const enofamily = seccompErrno | uint32(unix.EAFNOSUPPORT)
	const x86, x32, i386 = unix.AUDIT_ARCH_X86_64, 0x40000000, unix.AUDIT_ARCH_I386
	const arm, arm64 = unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_AARCH64
	mode := func(arg int, m uint64) (a [6]uint64) {
		a[arg] = m
		return a
	}
	abis := []abi{abiX8664, abiI386, abiGeneric(unix.AUDIT_ARCH_AARCH64), abiArm}
	f := seccompFilter(abis)
	for _, c := range []struct {
		name     string
		arch, nr uint32
		args     [6]uint64
		want     uint32
	}{
		{"chmod", unix.AUDIT_ARCH_X86_64, 90, mode(1, 0o755), seccompAllow},
		{"chmod setuid", unix.AUDIT_ARCH_X86_64, 90, mode(1, 0o4755), eperm},
		{"chmod setgid", unix.AUDIT_ARCH_X86_64, 90, mode(1, 0o2755), eperm},
		{"chmod sticky", unix.AUDIT_ARCH_X86_64, 90, mode(1, 0o1777), seccompAllow},
		{"chmod, x32", unix.AUDIT_ARCH_X86_64, 90 | 0x40000000, mode(1, 0o4755), eperm},
		{"fchmod", unix.AUDIT_ARCH_X86_64, 91, mode(1, 0o4755), eperm},
		{"fchmodat", unix.AUDIT_ARCH_X86_64, 268, mode(2, 0o4755), eperm},
		{"fchmodat, other argument", unix.AUDIT_ARCH_X86_64, 268, mode(1, 0o4755), seccompAllow},
		{"fchmodat2", unix.AUDIT_ARCH_X86_64, 452, mode(2, 0o2000), eperm},
		{"setxattr", unix.AUDIT_ARCH_X86_64, 188, mode(0, 0), enotsup},
		{"fgetxattr", unix.AUDIT_ARCH_X86_64, 193, mode(0, 0), enotsup},
		{"listxattr", unix.AUDIT_ARCH_X86_64, 194, mode(0, 0), seccompAllow},
		{"read", unix.AUDIT_ARCH_X86_64, 0, mode(1, 0o4755), seccompAllow},
		{"chmod, i386", unix.AUDIT_ARCH_I386, 15, mode(1, 0o4755), eperm},
		{"lsetxattr, i386", unix.AUDIT_ARCH_I386, 227, mode(0, 0), enotsup},
		{"number of another table", unix.AUDIT_ARCH_I386, 90, mode(1, 0o4755), seccompAllow},
		{"fchmodat, arm64", unix.AUDIT_ARCH_AARCH64, 53, mode(2, 0o4755), eperm},
		{"fchmod, arm", unix.AUDIT_ARCH_ARM, 94, mode(1, 0o4755), eperm},
		{"open setuid", x86, 2, [6]uint64{0, unix.O_CREAT, 0o4755}, eperm},
		{"open without O_CREAT", x86, 2, [6]uint64{0, unix.O_WRONLY | unix.O_DIRECTORY, 0o7777}, seccompAllow},
		{"open sticky", x86, 2, [6]uint64{0, unix.O_CREAT, 0o1777}, seccompAllow},
		{"open O_TMPFILE", x86, 2, [6]uint64{0, unix.O_TMPFILE | unix.O_RDWR, 0o2755}, eperm},
		{"open setuid, x32", x86, 2 | x32, [6]uint64{0, unix.O_CREAT, 0o4755}, eperm},
		{"openat setgid", x86, 257, [6]uint64{0, 0, unix.O_CREAT | unix.O_EXCL, 0o2755}, eperm},
		{"openat", x86, 257, [6]uint64{0, 0, unix.O_CREAT, 0o755}, seccompAllow},
		{"creat setuid", x86, 85, mode(1, 0o4755), eperm},
		{"mknod setuid", x86, 133, mode(1, unix.S_IFREG|0o4755), eperm},
		{"mknod fifo", x86, 133, mode(1, unix.S_IFIFO|0o644), seccompAllow},
		{"mknodat setuid, x32", x86, 259 | x32, mode(2, 0o4755), eperm},
		{"mkdir", x86, 83, mode(1, 0o2755), seccompAllow},
		{"openat2", x86, 437, mode(0, 0), enosys},
		{"io_uring_setup", x86, 425, mode(0, 0), enosys},
		{"io_uring_enter, x32", x86, 426 | x32, mode(0, 0), enosys},
		{"io_uring_register, i386", i386, 427, mode(0, 0), enosys},
		{"file_setattr", x86, 469, mode(0, 0), enosys},
		{"add_key", x86, 248, mode(0, 0), enosys},
		{"request_key, i386", i386, 287, mode(0, 0), enosys},
		{"keyctl", x86, 250, mode(0, 0), enosys},
		{"keyctl, arm", arm, 311, mode(0, 0), enosys},
		{"keyctl, arm64", arm64, 219, mode(0, 0), enosys},
		{"FS_IOC_SETFLAGS", x86, 16, mode(1, fsSetFlags64), enotty},
		{"FS_IOC_SETFLAGS, high bits", x86, 16, mode(1, 1<<32|fsSetFlags64), enotty},
		{"FS_IOC_FSSETXATTR", x86, 16, mode(1, fsSetXattr), enotty},
		{"FS_IOC_SETFLAGS, x32", x86, 514 | x32, mode(1, fsSetFlags32), enotty},
		{"FS_IOC_SETFLAGS, i386", i386, 54, mode(1, fsSetFlags32), enotty},
		{"FS_IOC_GETFLAGS", x86, 16, mode(1, 0x80086601), seccompAllow},
		{"TCGETS", x86, 16, mode(1, unix.TCGETS), seccompAllow},
		{"socket(AF_VSOCK)", x86, 41, mode(0, unix.AF_VSOCK), enofamily},
		{"socket(AF_VSOCK), i386", i386, 359, mode(0, unix.AF_VSOCK), enofamily},
		{"socket(AF_VSOCK), arm64", arm64, 198, mode(0, unix.AF_VSOCK), enofamily},
		{"socket(AF_UNIX)", x86, 41, mode(0, unix.AF_UNIX), seccompAllow},
		{"open setuid, i386", i386, 5, [6]uint64{0, unix.O_CREAT, 0o4755}, eperm},
		{"openat setuid, i386", i386, 295, [6]uint64{0, 0, unix.O_CREAT, 0o4755}, eperm},
		{"creat setuid, i386", i386, 8, mode(1, 0o4755), eperm},
		{"mknod setuid, i386", i386, 14, mode(1, 0o4755), eperm},
		{"mknodat setuid, i386", i386, 297, mode(2, 0o4755), eperm},
		{"fchmod setuid, i386", i386, 94, mode(1, 0o4755), eperm},
		{"fchmodat setuid, i386", i386, 306, mode(2, 0o4755), eperm},
		{"fchmodat2 setuid, i386", i386, 452, mode(2, 0o4755), eperm},
		{"openat setuid, arm", arm, 322, [6]uint64{0, 0, unix.O_CREAT, 0o4755}, eperm},
		{"openat setuid, arm64", arm64, 56, [6]uint64{0, 0, unix.O_CREAT, 0o4755}, eperm},
		{"mknodat setuid, arm64", arm64, 33, mode(2, 0o4755), eperm},
		{"foreign", unix.AUDIT_ARCH_S390X, 0, mode(0, 0), seccompKill},
	} {
		if got := evaluate(t, f, c.arch, c.nr, c.args); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	if seccompFilter(nil) != nil {
		t.Error("a filter without a table")
	}
}
