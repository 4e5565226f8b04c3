package refscan

import (
	"slices"

	"github.com/tvixd/tvixd/storepath"
)

// Scanner is an io.Writer that notes which of its candidates' hash parts occur
// in what is written to it, also where a hash part is spread over several
// writes. It is for one goroutine.
type Scanner struct {
	set        *set
	candidates [][]storepath.Path // by element of set; several if the hash parts are equal
	found      []bool
	missing    int // the number of elements not found yet

	tail  [hashLen - 1]byte // the last base 32 characters of the writes before
	ntail int
}

// NewScanner returns a scanner for the hash parts of candidates.
func NewScanner(candidates []storepath.Path) *Scanner {
	s := &Scanner{set: newSet(len(candidates))}
	for _, p := range candidates {
		part := hashPart([]byte(p.HashPart()))
		s.set.add(part)
		i := s.set.index[part]
		if i == len(s.candidates) {
			s.candidates = append(s.candidates, nil)
		}
		s.candidates[i] = append(s.candidates[i], p)
	}
	s.found = make([]bool, len(s.candidates))
	s.missing = len(s.candidates)
	return s
}

// Write scans p. It never fails.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	if s.missing == 0 || n == 0 {
		return n, nil
	}
	if s.ntail > 0 {
		var seam [2 * (hashLen - 1)]byte
		k := copy(seam[:], s.tail[:s.ntail])
		k += copy(seam[k:], p[:min(n, hashLen-1)])
		rest := s.scan(seam[:k])
		if n < hashLen-1 {
			s.keep(seam[rest:k])
			return n, nil
		}
	}
	s.keep(p[s.scan(p):])
	return n, nil
}

func (s *Scanner) scan(p []byte) (rest int) {
	return s.set.find(p, func(offset, element int) int {
		if !s.found[element] {
			s.found[element] = true
			s.missing--
		}
		if s.missing == 0 {
			return -1
		}
		return offset + 1
	})
}

// keep notes the end of the stream so far.
func (s *Scanner) keep(tail []byte) {
	if over := len(tail) - len(s.tail); over > 0 {
		tail = tail[over:]
	}
	s.ntail = copy(s.tail[:], tail)
}

// Found returns the candidates that were found so far, sorted.
func (s *Scanner) Found() []storepath.Path {
	var paths []storepath.Path
	for i, ok := range s.found {
		if ok {
			paths = append(paths, s.candidates[i]...)
		}
	}
	slices.SortFunc(paths, storepath.Path.Compare)
	return slices.Compact(paths)
}

// Missing returns the number of different hash parts that were not found yet.
func (s *Scanner) Missing() int { return s.missing }
