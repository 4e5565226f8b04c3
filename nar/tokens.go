package nar

import "encoding/binary"

// The usual runs of tokens, encoded.
var (
	encMagic     = encode(magic)
	encEntry     = encode("entry", "(", "name")
	encNode      = encode("node")
	encFile      = encode("(", "type", "regular", "contents")
	encExec      = encode("(", "type", "regular", "executable", "", "contents")
	encDirectory = encode("(", "type", "directory")
	encSymlink   = encode("(", "type", "symlink", "target")
	encClose     = encode(")")
	encCloseBoth = encode(")", ")")
)

func encode(tokens ...string) string {
	var b []byte
	for _, t := range tokens {
		b = appendString(b, t)
	}
	return string(b)
}

// appendString appends a string of the format to b.
func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	b = append(b, s...)
	return append(b, zeros[:padding(uint64(len(s)))]...)
}

var zeros [8]byte
