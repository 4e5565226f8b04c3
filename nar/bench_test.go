package nar

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"testing"
)

func BenchmarkReadSmallFiles(b *testing.B) {
	const files = 100_000
	data := manyFiles(files, 1000)
	src := bufio.NewReaderSize(nil, 256<<10)
	r := NewReader(src)
	buf := make([]byte, 4096)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(bytes.NewReader(data))
		r.Reset(src)
		for {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			if h.Kind != Regular {
				continue
			}
			if _, err := io.ReadFull(r, buf[:h.Size]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/file")
}

func BenchmarkWriteSmallFiles(b *testing.B) {
	const files = 100_000
	names := make([]string, files)
	for i := range names {
		names[i] = fmt.Sprintf("file-%07d", i)
	}
	contents := make([]byte, 1000)
	dst := bufio.NewWriterSize(io.Discard, 256<<10)
	w := NewWriter(dst)
	b.SetBytes(int64(len(manyFiles(files, len(contents)))))
	b.ReportAllocs()
	for b.Loop() {
		w.Reset(dst)
		if err := writeFiles(w, names, contents); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/file")
}

func BenchmarkReadLargeFile(b *testing.B) {
	data := archive(file(string(make([]byte, 64<<20))))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		r := NewReader(bytes.NewReader(data))
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
		if _, err := r.Next(); err != io.EOF {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteLargeFile(b *testing.B) {
	const size = 64 << 20
	chunk := make([]byte, 64<<10)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		w := NewWriter(io.Discard)
		if err := w.Header(Header{Kind: Regular, Size: size}); err != nil {
			b.Fatal(err)
		}
		for range size / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
