package nixhash

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
	for n := Nix32Len(len(src)) - 1; n >= 0; n-- {
		i, j := n*5/8, uint(n*5%8)
		v := src[i] >> j
		if i+1 < len(src) {
			v |= src[i+1] << (8 - j)
		}
		dst = append(dst, Nix32Alphabet[v&31])
	}
	return dst
}

// DecodeNix32 reads s into dst and returns how many bytes s stands for. It
// fails on a character outside the alphabet, and on set bits beyond the last
// whole byte. Bytes past the end of dst are refused too.
func DecodeNix32(dst []byte, s string) (int, error) {
	size := len(s) * 5 / 8
	if size > len(dst) {
		return 0, badHash("Nix32 string is too long")
	}
	clear(dst[:size])
	for n := range len(s) {
		v := nix32Values[s[len(s)-1-n]]
		if v == 255 {
			return 0, badHash("invalid character in Nix32 (Nix's Base32 variation) string: '%c'", s[len(s)-1-n])
		}
		i, j := n*5/8, uint(n*5%8)
		if i < size {
			dst[i] |= v << j
		} else if v != 0 {
			return 0, badHash("Nix32 string has bits past its last byte")
		}
		if carry := v >> (8 - j); carry != 0 {
			if i+1 >= size {
				return 0, badHash("Nix32 string has bits past its last byte")
			}
			dst[i+1] |= carry
		}
	}
	return size, nil
}
