package pathinfo

import "github.com/tvixd/tvixd/storepath"

// Order returns the indices of infos in an order in which each path comes
// after those of infos that it refers to. References to itself and to paths
// outside infos do not count. Infos of the same path stay together in their
// order. The error is a *CycleError if there is no such order.
func Order(infos []PathInfo) ([]int, error) {
	if len(infos) == 1 {
		return []int{0}, nil
	}
	byPath := make(map[storepath.Path]int, len(infos)) // the first info of a path
	next := make([]int, len(infos))                    // the next info of the same path, or 0
	last := make([]int, len(infos))                    // of a first info: the last one of its path
	for i := range infos {
		first, ok := byPath[infos[i].Path]
		if !ok {
			byPath[infos[i].Path] = i
			last[i] = i
			continue
		}
		next[last[first]] = i
		last[first] = i
	}

	s := sorter{infos: infos, byPath: byPath, next: next, state: make([]visit, len(infos))}
	s.order = make([]int, 0, len(infos))
	for i := range infos {
		if byPath[infos[i].Path] != i {
			continue
		}
		if err := s.visit(i); err != nil {
			return nil, err
		}
	}
	return s.order, nil
}

type visit uint8

const (
	unseen visit = iota
	open
	done
)

// sorter is a depth-first search without recursion: the depth of a reference
// graph is chosen by whoever sends it.
type sorter struct {
	infos  []PathInfo
	byPath map[storepath.Path]int
	next   []int
	state  []visit // of the first info of each path
	order  []int
}

// frame is a path being visited: the info and reference to look at next.
type frame struct{ first, info, ref int }

func (s *sorter) visit(start int) error {
	if s.state[start] != unseen {
		return nil
	}
	stack := []frame{{first: start, info: start}}
	s.state[start] = open
	for len(stack) > 0 {
		f := &stack[len(stack)-1]
		refs := s.infos[f.info].References
		switch {
		case f.ref < len(refs):
			ref := refs[f.ref]
			f.ref++
			i, ok := s.byPath[ref]
			if !ok || i == f.first || s.state[i] == done {
				continue
			}
			if s.state[i] == open {
				return &CycleError{Path: ref, Parent: s.infos[f.first].Path}
			}
			s.state[i] = open
			stack = append(stack, frame{first: i, info: i})
		case s.next[f.info] != 0:
			f.info, f.ref = s.next[f.info], 0
		default:
			for i := f.first; ; i = s.next[i] {
				s.order = append(s.order, i)
				if s.next[i] == 0 {
					break
				}
			}
			s.state[f.first] = done
			stack = stack[:len(stack)-1]
		}
	}
	return nil
}
