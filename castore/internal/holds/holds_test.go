package holds

import (
	"slices"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

func digest(i int) castore.Digest { return castore.Sum([]byte{byte(i)}) }

func TestSet(t *testing.T) {
	var s Set
	s.Touch(digest(0))
	if s.Held(digest(0)) {
		t.Error("held without a hold")
	}
	r1 := s.Hold()
	s.Touch(digest(1))
	r2 := s.Hold()
	s.TouchDirectory(digest(2))
	r3 := s.Hold()
	s.Touch(digest(3))
	held := func(want ...int) {
		t.Helper()
		var got []int
		for i := range 5 {
			if s.Held(digest(i)) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("held: %v, want %v", got, want)
		}
	}
	held(1, 2, 3)
	if dirs := slices.Collect(s.Directories()); !slices.Equal(dirs, []castore.Digest{digest(2)}) {
		t.Errorf("directories: %v", dirs)
	}
	// The middle one goes: what it held belongs to the older one.
	r2()
	r2()
	held(1, 2, 3)
	if n := len(s.generations); n != 2 {
		t.Errorf("%d generations for 2 holds", n)
	}
	// The oldest goes: what came before the younger is free.
	r1()
	held(3)
	r4 := s.Hold()
	s.Touch(digest(4))
	r3()
	held(4)
	r4()
	held()
	if n := len(s.generations); n != 0 {
		t.Errorf("%d generations for no hold", n)
	}
}

// TestEqualBegin has holds that begin at the same point.
func TestEqualBegin(t *testing.T) {
	var s Set
	r1, r2 := s.Hold(), s.Hold()
	s.Touch(digest(1))
	r1()
	if !s.Held(digest(1)) {
		t.Error("released with one of two holds")
	}
	r2()
	if s.Held(digest(1)) || len(s.generations) != 0 {
		t.Error("held without a hold")
	}
}

// TestHoldAll lets go, during a sweep, of what was touched before it.
func TestHoldAll(t *testing.T) {
	var s Set
	r1 := s.Hold()
	s.Touch(digest(1))
	r2 := s.Hold()
	s.Touch(digest(2))
	all := s.HoldAll()
	r1()
	s.Touch(digest(3))
	r2()
	for i := 1; i <= 3; i++ {
		if !s.Held(digest(i)) {
			t.Errorf("%d was let go during the sweep", i)
		}
	}
	all()
	if len(s.generations) != 0 {
		t.Error("held without a hold")
	}
	all = s.HoldAll()
	s.Touch(digest(4))
	if !s.Held(digest(4)) {
		t.Error("not held by the only hold")
	}
	all()
	if s.Held(digest(4)) {
		t.Error("held without a hold")
	}
}

func BenchmarkTouch(b *testing.B) {
	var s Set
	defer s.Hold()()
	for i := 0; b.Loop(); i++ {
		s.Touch(castore.Digest{byte(i), byte(i >> 8), byte(i >> 16)})
	}
}
