package workerprotocol

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/storepath"
)

func manyPaths(n int) []storepath.Path {
	paths := make([]storepath.Path, n)
	for i := range paths {
		var digest [storepath.DigestSize]byte
		copy(digest[:], fmt.Sprintf("%020d", i))
		p, err := storepath.New(digest, "some-package-1.2.3")
		if err != nil {
			panic(err)
		}
		paths[i] = p
	}
	return paths
}

func BenchmarkMessages(b *testing.B) {
	info := infoFoo
	info.References = manyPaths(20)
	for name, m := range map[string]Message{
		"paths-10000": &PathsResponse{manyPaths(10_000)},
		"path-info":   &ValidPathInfo{pathFoo, info},
		"result":      &BuildDerivationResponse{resultFoo},
		"options":     &optionsFoo,
	} {
		var buf bytes.Buffer
		w := NewWriter(&buf)
		if err := WriteMessage(w, v1(38), storepath.DefaultDir, m); err != nil {
			b.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
		data := buf.Bytes()
		b.Run("write/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			w := NewWriter(io.Discard)
			for b.Loop() {
				if err := WriteMessage(w, v1(38), storepath.DefaultDir, m); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("read/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			src := bytes.NewReader(data)
			r := NewReader(src, Limits{})
			for b.Loop() {
				src.Reset(data)
				r.src.Reset(src)
				if err := ReadMessage(r, v1(38), storepath.DefaultDir, decodeTarget(m)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func decodeTarget(m Message) Message {
	switch m.(type) {
	case *PathsResponse:
		return &PathsResponse{}
	case *ValidPathInfo:
		return &ValidPathInfo{}
	case *BuildDerivationResponse:
		return &BuildDerivationResponse{}
	}
	return &SetOptionsRequest{}
}

func BenchmarkFramed(b *testing.B) {
	const size = 16 << 20
	data := make([]byte, size)
	for _, piece := range []int{8, 4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("write/%d", piece), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				w := NewFramedWriter(NewWriter(io.Discard))
				for rest := data; len(rest) > 0; rest = rest[piece:] {
					if _, err := w.Write(rest[:piece]); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	var frames bytes.Buffer
	w := NewFramedWriter(NewWriter(&frames))
	w.Write(data)
	w.Close()
	b.Run("read", func(b *testing.B) {
		b.SetBytes(size)
		buf := make([]byte, 64<<10)
		for b.Loop() {
			f := NewFramedReader(NewReader(bytes.NewReader(frames.Bytes()), Limits{}))
			if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf); err != nil || n != size {
				b.Fatal(n, err)
			}
		}
	})
}

func BenchmarkNARStream(b *testing.B) {
	for name, contents := range map[string]string{"small-files": strings.Repeat("x", 600), "large-files": strings.Repeat("x", 1<<20)} {
		words := []string{"(", "type", "directory"}
		for i := 0; i*len(contents) < 8<<20; i++ {
			words = append(words, "entry", "(", "name", fmt.Sprintf("file-%08d", i), "node",
				"(", "type", "regular", "contents", contents, ")", ")")
		}
		nar := narOf(append(words, ")")...)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(nar)))
			buf := make([]byte, 64<<10)
			for b.Loop() {
				s := NewNARStream(bufio.NewReaderSize(bytes.NewReader(nar), readBufferSize))
				if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{s}, buf); err != nil || n != int64(len(nar)) {
					b.Fatal(n, err)
				}
			}
		})
	}
}

// BenchmarkCall is a request and a response over a socket; BenchmarkLog has 1000 log messages with
// each.
func BenchmarkCall(b *testing.B) { benchmarkCall(b, 0) }

func BenchmarkLog(b *testing.B) { benchmarkCall(b, 1000) }

func benchmarkCall(b *testing.B, messages int) {
	server, client := unixPair(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := Accept(server, ServerOptions{})
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		fields := []Field{StringField("[ 42%] Building CXX object some/file.cc.o")}
		for {
			if _, err := conn.ReadOp(); err != nil {
				return
			}
			var request IsValidPathRequest
			if err := conn.ReadRequest(&request); err != nil {
				b.Error(err)
				return
			}
			for range messages {
				conn.Result(1, ResBuildLogLine, fields)
			}
			if err := conn.Finish(&IsValidPathResponse{true}); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	c, err := NewClient(b.Context(), client, ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.IsValidPath(b.Context(), pathFoo); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	<-done
}
