// Package nar reads and writes Nix archives (NAR): one file system object,
// with nothing but names, contents, executable bits and link targets.
//
// An archive is a sequence of strings, each an 8-byte little-endian length,
// the bytes, and zeros up to a multiple of 8:
//
//	archive   = "nix-archive-1" node
//	node      = "(" "type" ( regular | directory | symlink ) ")"
//	regular   = "regular" [ "executable" "" ] "contents" BYTES
//	directory = "directory" { "entry" "(" "name" NAME "node" node ")" }
//	symlink   = "symlink" "target" TARGET
//
//	┌─────────────────────────┬───────────────────────┬─────────────┐
//	│ 0d 00 00 00 00 00 00 00 │ n i x - a r c h i v e │ - 1 0 0 0   │ …
//	└─ length 13 ─────────────┴─ bytes ───────────────┴─ padding ───┘
//
// The same object is always the same bytes: names are sorted and unique,
// paddings are zero, tokens are in this order. Whatever differs is refused,
// also where older versions of Nix let it through, because an archive that can
// be written in two ways can be hashed in one and unpacked in the other.
//
// Reader and Writer speak in the same events: the header of every object, and
// an EndDirectory after the last entry of a directory. Both work in constant
// memory, start no goroutine and are for one goroutine at a time.
package nar

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// MaxName is the longest name of an entry in bytes.
	MaxName = 255
	// MaxTarget is the longest target of a link in bytes.
	MaxTarget = 4095
	// MaxDepth is how deep directories may lie in each other: the root has
	// depth 0 and the deepest object has depth MaxDepth-1. Real trees stay far
	// below; code that walks a tree by recursion may rely on it.
	MaxDepth = 1024

	// maxTag bounds the tokens of the grammar, the longest of which has 10 bytes.
	maxTag = 32
	// maxSize keeps contents and their padding within an int64.
	maxSize = 1<<63 - 8
	magic   = "nix-archive-1"
)

// ErrMalformed is what an archive or a sequence of headers that breaks the
// format's rules results in. Errors of the underlying stream are not of this kind.
var ErrMalformed = errors.New("bad archive")

// Kind tells what a Header announces.
type Kind uint8

// The kinds of objects, and the mark that ends a directory.
const (
	Regular Kind = iota + 1
	Directory
	Symlink
	EndDirectory
)

// String is the kind's name in the format.
func (k Kind) String() string {
	switch k {
	case Regular:
		return "regular"
	case Directory:
		return "directory"
	case Symlink:
		return "symlink"
	case EndDirectory:
		return "end of directory"
	}
	return "unknown kind " + strconv.Itoa(int(k))
}

// Header is one event of an archive.
type Header struct {
	// Name is the entry's name, "" for the root and for EndDirectory.
	Name string
	// Depth is 0 for the root. EndDirectory has the depth of its directory. A Writer ignores it.
	Depth int
	Kind  Kind
	// Executable is for Regular.
	Executable bool
	// Size is the length of a Regular's contents in bytes.
	Size uint64
	// Target is for Symlink.
	Target string
}

func validName(name []byte) bool {
	if len(name) == 0 || len(name) > MaxName || string(name) == "." || string(name) == ".." {
		return false
	}
	for _, c := range name {
		if c == '/' || c == 0 {
			return false
		}
	}
	return true
}

func validTarget(target string) bool {
	return target != "" && len(target) <= MaxTarget && strings.IndexByte(target, 0) < 0
}

// padding is the number of zeros after size bytes.
func padding(size uint64) int { return int(-size & 7) }

// location knows the place in an archive. Of every open directory it keeps the
// name of the latest entry, one after the other in one buffer: that is the
// path for messages and what the next name must be greater than.
type location struct {
	buf    []byte
	starts []int // for every open directory, where its latest entry's name begins
}

func (l *location) reset() { l.buf, l.starts = l.buf[:0], l.starts[:0] }

// depth is the number of open directories.
func (l *location) depth() int { return len(l.starts) }

func (l *location) enter() { l.starts = append(l.starts, len(l.buf)) }

func (l *location) leave() {
	top := len(l.starts) - 1
	l.buf, l.starts = l.buf[:l.starts[top]], l.starts[:top]
}

// next makes name the latest entry of the innermost directory and tells
// whether it comes after the one before it.
func (l *location) next(name []byte) (sorted bool) {
	start := l.starts[len(l.starts)-1]
	sorted = string(name) > string(l.buf[start:])
	l.buf = append(l.buf[:start], name...)
	return sorted
}

// path is absolute within the archive, "/" for the root. Names that would
// garble a message are quoted.
func (l *location) path() string {
	if len(l.buf) == 0 {
		return "/"
	}
	var b strings.Builder
	for i, start := range l.starts {
		end := len(l.buf)
		if i+1 < len(l.starts) {
			end = l.starts[i+1]
		}
		if start == end {
			break // a directory of which no entry was seen yet
		}
		b.WriteByte('/')
		b.Write(l.buf[start:end])
	}
	return printable(b.String())
}

func printable(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) < 0 {
		return s
	}
	return strconv.Quote(s)
}

func (l *location) malformed(format string, args ...any) error {
	return fmt.Errorf("NAR: %s: %w: %s", l.path(), ErrMalformed, fmt.Sprintf(format, args...))
}
