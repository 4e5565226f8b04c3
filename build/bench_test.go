package build

import (
	"context"
	"fmt"
	"strconv"
	"testing"
)

func benchModes(b *testing.B, f func(*testing.B, *lab)) {
	for _, isolated := range []bool{true, false} {
		b.Run(fmt.Sprint("isolated=", isolated), func(b *testing.B) {
			l := newLab(b)
			l.set.BuildDir = ""
			if !isolated {
				l.useHostShell()
			}
			f(b, l)
		})
	}
}

func buildAll(b *testing.B, l *lab, targets ...built) {
	r := l.request(nil, targets...)
	r.SkipIDs = true
	res, err := l.builder.Build(context.Background(), r)
	if err != nil {
		b.Fatal(err)
	}
	for i := range res {
		if res[i].Status != Built {
			b.Fatalf("%d %s", res[i].Status, res[i].ErrorMsg)
		}
	}
}

// One trivial build after the other.
func BenchmarkTrivial(b *testing.B) {
	benchModes(b, func(b *testing.B, l *lab) {
		var ds []built
		for i := range b.N {
			ds = append(ds, l.derive(recipe{name: "many-" + strconv.Itoa(i), script: `echo ` + strconv.Itoa(i) + ` > $out`}))
		}
		b.ResetTimer()
		for _, d := range ds {
			buildAll(b, l, d)
		}
	})
}

// Many trivial builds in one request.
func BenchmarkMany(b *testing.B) {
	benchModes(b, func(b *testing.B, l *lab) {
		var ds []built
		for i := range b.N {
			ds = append(ds, l.derive(recipe{name: "many-" + strconv.Itoa(i), script: `echo ` + strconv.Itoa(i) + ` > $out`}))
		}
		b.ResetTimer()
		buildAll(b, l, ds...)
	})
}

// A chain of 50.
func BenchmarkChain(b *testing.B) {
	benchModes(b, func(b *testing.B, l *lab) {
		for i := range b.N {
			b.StopTimer()
			d := l.derive(recipe{name: "chain-" + strconv.Itoa(i), script: `echo > $out`})
			for range 49 {
				d = l.derive(recipe{name: "chain", inputs: []built{d},
					env: map[string]string{"prev": l.store.Dir().Join(d.out("out"))}, script: `echo $prev > $out`})
			}
			b.StartTimer()
			buildAll(b, l, d)
		}
	})
}

// The folders of an isolated build alone.
func BenchmarkWorkspace(b *testing.B) {
	l := newLab(b)
	opts := workspaceOptions{isolated: true, reuse: true, builder: owner{30000, 30000}}
	for b.Loop() {
		w, err := l.builder.scratch.acquire(opts)
		if err != nil {
			b.Fatal(err)
		}
		if err := w.release(false); err != nil {
			b.Fatal(err)
		}
	}
}
