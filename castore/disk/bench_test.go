package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"

	"github.com/tvixd/tvixd/castore"
	"github.com/tvixd/tvixd/castore/castoretest"
)

func BenchmarkStore(b *testing.B) { castoretest.Bench(b, suiteOf(nil)) }

// BenchmarkChunking cuts data as the writer of large blobs does.
func BenchmarkChunking(b *testing.B) {
	data := noise(16<<20, 1)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		c, err := chunkers.NewChunker(chunkAlgorithm, bytes.NewReader(data),
			&chunkers.ChunkerOpts{MinSize: chunkMin, NormalSize: chunkNormal, MaxSize: chunkMax})
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = c.Next()
		}
		if err != io.EOF {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecord encodes and decodes blocks of 256 KiB.
func BenchmarkRecord(b *testing.B) {
	for name, data := range map[string][]byte{"text": varied(blockTarget), "random": noise(blockTarget, 1)} {
		table := []tableEntry{{castore.Sum(data), blockTarget}}
		b.Run("encode/"+name, func(b *testing.B) {
			b.SetBytes(blockTarget)
			for b.Loop() {
				putBuf(encodeRecord(KindData, table, data, CompressS2))
			}
		})
		rec := record(KindData, CompressS2, 64, data)
		dst := make([]byte, blockTarget)
		b.Run("decode/"+name, func(b *testing.B) {
			b.SetBytes(blockTarget)
			for b.Loop() {
				if _, err := decodeRecord(rec, testSalt.short(), 64, dst); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(rec))/blockTarget, "ratio")
		})
	}
}

// varied returns text with less repetition than prose.
func varied(n int) []byte {
	var buf bytes.Buffer
	for i := uint64(0); buf.Len() < n; i++ {
		fmt.Fprintf(&buf, "path %x refers to %d others, of %s\n", noise(6, i), i*i%97, noise(3, i/5))
	}
	return buf.Bytes()[:n]
}

// BenchmarkLookup finds objects in an index of 100,000.
func BenchmarkLookup(b *testing.B) {
	s := openTest(b, b.TempDir(), nil)
	const n = 100_000
	digests := make([]castore.Digest, n)
	for i := range digests {
		d, err := s.PutBlob(context.Background(), noise(32, uint64(i)))
		if err != nil {
			b.Fatal(err)
		}
		digests[i] = d
	}
	if err := s.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"hit", "miss"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d := digests[i*7919%n]
				if name == "miss" {
					d[0]++
				}
				if _, found, err := s.index.lookup(context.Background(), d); err != nil || found != (name == "hit") {
					b.Fatal(found, err)
				}
			}
		})
	}
}

// BenchmarkScanPack reads a pack of 64 MiB.
func BenchmarkScanPack(b *testing.B) {
	s := openTest(b, b.TempDir(), nil)
	for i := range uint64(64) {
		if _, err := s.PutBlob(context.Background(), noise(1<<20, i)); err != nil {
			b.Fatal(err)
		}
	}
	s.Close()
	b.SetBytes(64 << 20)
	for b.Loop() {
		err := ScanPack(filepath.Join(s.options.Dir, "packs", "000001.pack"), func(Record) error { return nil }, nil)
		if err != nil {
			b.Fatal(err)
		}
	}
}
