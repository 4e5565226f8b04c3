package sandbox

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// A program is a list of system calls for init_linux.c, as one block of memory.
// All numbers are in the machine's byte order.
//
//	┌ header ───────┐  magic, size, count and offset of the operations,
//	│ 48 bytes      │  count and offset of the relocations
//	├ operations ───┤  struct op: 72 bytes each
//	├ data ─────────┤  strings, structures, vectors of pointers; 8-aligned
//	├ relocations ──┤  offsets of words that hold an offset and are to become
//	└───────────────┘  a pointer
//
// Data is appended while operations are, so the offsets in the operations are
// made final by encode, which knows where the data will lie.
type program struct {
	ops    []op
	data   []byte
	relocs []uint64 // offsets in data
}

// op is one system call with what a message says about it.
type op struct {
	nr        int64
	args      [6]arg
	dst       register
	skip      uint8
	tolerated [2]int32
	step      string // "mount '/x'": what fails when the call does
}

// register holds a result for later operations of the same program.
type register uint8

const noRegister register = 255

// arg is an argument of an operation: a number, a pointer into the program's
// data, or a register.
type arg struct {
	value uint64
	kind  argKind
}

type argKind uint8

const (
	argNumber argKind = iota
	argData
	argRegister
)

func num[T ~int | ~uint | ~int32 | ~uint32 | ~int64 | ~uint64 | ~uintptr](v T) arg {
	return arg{value: uint64(v)}
}

func reg(r register) arg { return arg{value: uint64(r), kind: argRegister} }

const (
	programMagic = 0x7476697864736231
	headerSize   = 48
	opSize       = 72

	opFork = -1 // continues in the child; the parent becomes process 1
)

// call appends a system call. The returned op may be changed until the next call.
func (p *program) call(step string, nr int64, args ...arg) *op {
	o := op{nr: nr, dst: noRegister, step: step}
	copy(o.args[:], args)
	p.ops = append(p.ops, o)
	return &p.ops[len(p.ops)-1]
}

// tolerate makes errors of the operation none, and skip that many of the next
// operations when one occurs.
func (o *op) tolerate(skip uint8, errs ...unix.Errno) *op {
	for i, e := range errs {
		o.tolerated[i] = int32(e)
	}
	if len(errs) == 0 {
		o.tolerated[0] = -1
	}
	o.skip = skip
	return o
}

func (o *op) into(r register) *op {
	o.dst = r
	return o
}

// bytes puts b into the data, aligned for any structure.
func (p *program) bytes(b []byte) arg {
	for len(p.data)%8 != 0 {
		p.data = append(p.data, 0)
	}
	off := len(p.data)
	p.data = append(p.data, b...)
	return arg{value: uint64(off), kind: argData}
}

// str is a string as C has it. The caller has checked that it holds no NUL.
func (p *program) str(s string) arg {
	off := len(p.data)
	p.data = append(append(p.data, s...), 0)
	return arg{value: uint64(off), kind: argData}
}

// strs is a vector of strings that ends in a null pointer.
func (p *program) strs(list []string) arg {
	offs := make([]uint64, 0, len(list)+1)
	for _, s := range list {
		offs = append(offs, p.str(s).value)
	}
	vec := p.bytes(make([]byte, 8*(len(list)+1)))
	for i, off := range offs {
		p.pointer(int(vec.value)+8*i, off)
	}
	return vec
}

// pointer makes the word at offset at of the data point to offset to of it.
func (p *program) pointer(at int, to uint64) {
	binary.NativeEndian.PutUint64(p.data[at:], to)
	p.relocs = append(p.relocs, uint64(at))
}

// encode lays out the program.
func (p *program) encode() []byte {
	for len(p.data)%8 != 0 {
		p.data = append(p.data, 0)
	}
	le := binary.NativeEndian
	dataOff := uint64(headerSize + opSize*len(p.ops))
	relocs := make([]uint64, 0, len(p.relocs)+2*len(p.ops))
	for _, at := range p.relocs {
		le.PutUint64(p.data[at:], le.Uint64(p.data[at:])+dataOff)
		relocs = append(relocs, dataOff+at)
	}
	ops := make([]byte, 0, opSize*len(p.ops))
	for _, o := range p.ops {
		ops = le.AppendUint64(ops, uint64(o.nr))
		from := [8]byte{6: byte(o.dst), 7: o.skip}
		for i, a := range o.args {
			from[i] = byte(noRegister)
			switch a.kind {
			case argData:
				relocs = append(relocs, uint64(headerSize+len(ops)))
				a.value += dataOff
			case argRegister:
				from[i], a.value = byte(a.value), 0
			}
			ops = le.AppendUint64(ops, a.value)
		}
		ops = append(ops, from[:]...)
		ops = le.AppendUint32(ops, uint32(o.tolerated[0]))
		ops = le.AppendUint32(ops, uint32(o.tolerated[1]))
	}
	relocOff := dataOff + uint64(len(p.data))
	size := relocOff + 8*uint64(len(relocs))

	out := make([]byte, 0, size)
	for _, v := range []uint64{programMagic, size, uint64(len(p.ops)), headerSize, uint64(len(relocs)), relocOff} {
		out = le.AppendUint64(out, v)
	}
	out = append(out, ops...)
	out = append(out, p.data...)
	for _, r := range relocs {
		out = le.AppendUint64(out, r)
	}
	return out
}

// load puts the encoded program into a memory file.
func (p *program) load() (fd int, err error) {
	fd, err = unix.MemfdCreate("tvixd-sandbox", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("create memory file: %w", err)
	}
	for b := p.encode(); len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("write memory file: %w", err)
		}
		b = b[n:]
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("seal memory file: %w", err)
	}
	return fd, nil
}

// stepName says what the operation of the given index does.
func (p *program) stepName(index int) string {
	if index < 0 || index >= len(p.ops) {
		return "start the builder's process"
	}
	return p.ops[index].step
}

// checkStrings refuses what C's strings cannot hold.
func checkStrings(what string, list []string) error {
	for _, s := range list {
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%s contains a NUL byte", what)
		}
	}
	return nil
}
