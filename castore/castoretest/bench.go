package castoretest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/tvixd/tvixd/castore"
)

// Bench runs all benchmarks.
func Bench(b *testing.B, suite Suite) {
	b.Run("PutBlob", func(b *testing.B) { benchPut(b, suite) })
	b.Run("PutAgain", func(b *testing.B) { benchPutAgain(b, suite) })
	b.Run("Create", func(b *testing.B) { benchCreate(b, suite) })
	b.Run("Has", func(b *testing.B) { benchHas(b, suite) })
	b.Run("Read", func(b *testing.B) { benchRead(b, suite) })
	b.Run("ReadLarge", func(b *testing.B) { benchReadLarge(b, suite) })
	b.Run("ReadAt", func(b *testing.B) { benchReadAt(b, suite) })
	b.Run("GetDirectory", func(b *testing.B) { benchGetDirectory(b, suite) })
	b.Run("Sync", func(b *testing.B) { benchSync(b, suite) })
	b.Run("Sweep", func(b *testing.B) { benchSweep(b, suite) })
}

// stamp makes a blob different from all others.
func stamp(data []byte, i uint64) {
	for k := range 8 {
		data[k] = byte(i >> (8 * k))
	}
}

func benchPut(b *testing.B, suite Suite) {
	for _, n := range []int{1 << 10, 8 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := open(b, suite)
			var seq atomic.Uint64
			b.SetBytes(int64(n))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				data := text(n, 1)
				for pb.Next() {
					stamp(data, seq.Add(1))
					if _, err := s.PutBlob(context.Background(), data); err != nil {
						b.Error(err)
						return
					}
				}
			})
			sync(b, s)
		})
	}
}

func benchPutAgain(b *testing.B, suite Suite) {
	s := open(b, suite)
	data := text(8<<10, 1)
	const n = 1000
	for i := range uint64(n) {
		stamp(data, i)
		put(b, s, data)
	}
	sync(b, s)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		stamp(data, i%n)
		if _, err := s.PutBlob(context.Background(), data); err != nil {
			b.Fatal(err)
		}
	}
}

func benchCreate(b *testing.B, suite Suite) {
	const n = 64 << 20
	for name, data := range map[string][]byte{"text": text(1<<20, 1), "random": random(1<<20, 1), "zero": make([]byte, 1<<20)} {
		b.Run(name, func(b *testing.B) {
			s := open(b, suite)
			b.SetBytes(n)
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i++ {
				w, err := s.Create(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				for k := range uint64(n >> 20) {
					if name != "zero" {
						stamp(data, i<<32|k)
						stamp(data[512<<10:], i<<32|k)
					}
					if _, err := w.Write(data); err != nil {
						b.Fatal(err)
					}
				}
				if _, _, err := w.Commit(); err != nil {
					b.Fatal(err)
				}
			}
			sync(b, s)
		})
	}
}

func benchHas(b *testing.B, suite Suite) {
	s := open(b, suite)
	var digests []castore.Digest
	for i := range uint64(10_000) {
		digests = append(digests, put(b, s, text(16, i)))
	}
	sync(b, s)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := s.Has(context.Background(), digests[i:i+1]); err != nil {
			b.Fatal(err)
		}
		i = (i + 1) % len(digests)
	}
}

// many puts blobs of a length and returns their names.
func many(b *testing.B, s castore.Store, count, n int) []castore.Digest {
	var digests []castore.Digest
	for i := range uint64(count) {
		digests = append(digests, put(b, s, text(n, i)))
	}
	sync(b, s)
	return digests
}

// benchRead opens and reads small blobs: in order of their puts, and at random
// among more than the caches of most stores take.
func benchRead(b *testing.B, suite Suite) {
	const n = 8 << 10
	s := open(b, suite)
	digests := many(b, s, 16_000, n)
	for _, order := range []string{"sequential", "random", "cached"} {
		b.Run(order, func(b *testing.B) {
			b.SetBytes(n)
			b.ReportAllocs()
			r := rand.New(rand.NewPCG(1, 1))
			for i := 0; b.Loop(); i++ {
				k := i % len(digests)
				switch order {
				case "random":
					k = r.IntN(len(digests))
				case "cached":
					k = i % 100
				}
				blob, err := s.Open(context.Background(), digests[k])
				if err != nil {
					b.Fatal(err)
				}
				if _, err := blob.WriteTo(io.Discard); err != nil {
					b.Fatal(err)
				}
				blob.Close()
			}
		})
	}
}

func benchReadLarge(b *testing.B, suite Suite) {
	const n = 64 << 20
	for name, data := range map[string][]byte{"text": text(n, 1), "random": random(n, 1)} {
		b.Run(name, func(b *testing.B) {
			s := open(b, suite)
			d := put(b, s, data)
			sync(b, s)
			b.SetBytes(n)
			b.ReportAllocs()
			for b.Loop() {
				blob, err := s.Open(context.Background(), d)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := blob.WriteTo(io.Discard); err != nil {
					b.Fatal(err)
				}
				blob.Close()
			}
		})
	}
}

// benchReadAt reads a large blob as a file system does.
func benchReadAt(b *testing.B, suite Suite) {
	const n, step = 64 << 20, 128 << 10
	s := open(b, suite)
	d := put(b, s, text(n, 1))
	sync(b, s)
	blob, err := s.Open(context.Background(), d)
	if err != nil {
		b.Fatal(err)
	}
	defer blob.Close()
	for _, order := range []string{"sequential", "random"} {
		b.Run(order, func(b *testing.B) {
			b.SetBytes(step)
			b.ReportAllocs()
			buf := make([]byte, step)
			r := rand.New(rand.NewPCG(1, 1))
			for i := int64(0); b.Loop(); i++ {
				off := i % (n / step) * step
				if order == "random" {
					off = r.Int64N(n - step)
				}
				if _, err := blob.ReadAt(buf, off); err != nil && err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchGetDirectory(b *testing.B, suite Suite) {
	s := open(b, suite)
	root := tree(b, s, 1)
	sync(b, s)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.GetDirectory(context.Background(), root.Digest); err != nil {
			b.Fatal(err)
		}
	}
}

// benchSync puts one small blob and waits until it is durable.
func benchSync(b *testing.B, suite Suite) {
	s := open(b, suite)
	for i := uint64(0); b.Loop(); i++ {
		put(b, s, text(1000, i))
		sync(b, s)
	}
}

// benchSweep sweeps 20,000 small blobs, of which all, half or none are alive.
func benchSweep(b *testing.B, suite Suite) {
	const n = 20_000
	for _, percent := range []int{0, 50, 100} {
		b.Run(fmt.Sprintf("live=%d%%", percent), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := suite.New(b)
				var live castore.LiveNodes
				for i := range uint64(n) {
					data := text(4000, i)
					d := put(b, s, data)
					if int(i*100/n) < percent {
						live = append(live, castore.Node{Kind: castore.KindFile, Digest: d, Size: 4000})
					}
				}
				sync(b, s)
				b.StartTimer()
				sweep(b, s, live...)
				b.StopTimer()
				s.Close()
				b.StartTimer()
			}
		})
	}
}
