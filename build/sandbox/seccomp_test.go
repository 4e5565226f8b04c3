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
