package nixhash

import "slices"

// Nix32Alphabet lists the 32 characters in the order of their values. The
// letters e, o, t and u are left out.
const Nix32Alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

// nix32Values maps a character to its value, others to 255.
var nix32Values = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for v, c := range []byte(Nix32Alphabet) {
		t[c] = byte(v)
	}
	return t
}()

// Nix32Len is the number of characters that size bytes take.
func Nix32Len(size int) int { return (size*8 + 4) / 5 }

// IsNix32 reports whether c is one of the 32 characters.
func IsNix32(c byte) bool { return nix32Values[c] != 255 }

// EncodeNix32 writes src in Nix's base 32.
func EncodeNix32(src []byte) string {
	var buf [(maxSize*8 + 4) / 5]byte
	return string(AppendNix32(buf[:0], src))
}

// AppendNix32 appends src in Nix's base 32 to dst and returns the longer slice.
func AppendNix32(dst, src []byte) []byte {
	at := len(dst) + Nix32Len(len(src))
	dst = slices.Grow(dst, at-len(dst))[:at]
	// The first bits of src are the last character.
	var acc, bits uint
	for _, c := range src {
		acc |= uint(c) << bits
		for bits += 8; bits >= 5; bits -= 5 {
			at--
			dst[at] = Nix32Alphabet[acc&31]
			acc >>= 5
		}
	}
	if bits > 0 {
		dst[at-1] = Nix32Alphabet[acc]
	}
	return dst
}

// DecodeNix32 reads s into dst and returns how many bytes s stands for. It
// fails on a character outside the alphabet, and on set bits beyond the last
// whole byte. Bytes past the end of dst are refused too.
func DecodeNix32(dst []byte, s string) (int, error) {
	if len(s)*5/8 > len(dst) {
		return 0, badHash("Nix32 string is too long")
	}
	var acc, bits uint
	n := 0
	for i := len(s) - 1; i >= 0; i-- {
		v := nix32Values[s[i]]
		if v == 255 {
			return 0, badHash("invalid character in Nix32 (Nix's Base32 variation) string: '%c'", s[i])
		}
		acc |= uint(v) << bits
		if bits += 5; bits >= 8 {
			dst[n] = byte(acc)
			n++
			acc >>= 8
			bits -= 8
		}
	}
	if acc != 0 {
		return 0, badHash("Nix32 string has bits past its last byte")
	}
	return n, nil
}
