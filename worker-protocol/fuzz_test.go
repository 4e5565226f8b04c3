package workerprotocol

import (
	"bufio"
	"bytes"
	"io"
	"reflect"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/tvixd/tvixd/storepath"
)

// fuzzLimits keep hostile sizes from being allowed sizes.
var fuzzLimits = Limits{String: 1 << 20, Message: 4 << 20}

// servedOps lists the operations that have messages, in order.
func servedOps() []OpInfo {
	return slices.DeleteFunc(Ops(), func(o OpInfo) bool { return !o.Op.Served() })
}

// addSamples seeds a target of an operation, a protocol and a message.
func addSamples(f *testing.F, pick func(sample) Message) {
	for i, op := range servedOps() {
		for j, p := range protocols() {
			if p.Version < op.Since {
				continue
			}
			f.Add(uint8(i), uint8(j), encodeMessage(f, p, pick(samples()[op.Op])))
		}
	}
}

// checkStable reads data as m. What could be read must be written so that it reads the same.
func checkStable(t *testing.T, p Protocol, m Message, data []byte) {
	r := NewReader(bytes.NewReader(data), fuzzLimits)
	if err := ReadMessage(r, p, storepath.DefaultDir, m); err != nil {
		return
	}
	var b bytes.Buffer
	w := NewWriter(&b)
	if err := WriteMessage(w, p, storepath.DefaultDir, m); err != nil {
		return // old protocols can name what cannot be sent
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	again := reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)
	if err := ReadMessage(NewReader(&b, Limits{}), p, storepath.DefaultDir, again); err != nil {
		t.Fatalf("%+v in %s was read, and written so that it cannot be read: %v", m, p, err)
	}
	if !reflect.DeepEqual(m, again) {
		t.Fatalf("in %s:\nread  %+v\nagain %+v", p, m, again)
	}
}

func FuzzRequests(f *testing.F) {
	addSamples(f, func(s sample) Message { return s.request })
	ops, all := servedOps(), protocols()
	f.Fuzz(func(t *testing.T, op, proto uint8, data []byte) {
		checkStable(t, all[int(proto)%len(all)], ops[int(op)%len(ops)].NewRequest(), data)
	})
}

func FuzzResponses(f *testing.F) {
	addSamples(f, func(s sample) Message { return s.response })
	ops, all := servedOps(), protocols()
	f.Fuzz(func(t *testing.T, op, proto uint8, data []byte) {
		checkStable(t, all[int(proto)%len(all)], ops[int(op)%len(ops)].NewResponse(), data)
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("nsbl"), wire(1, "x", 1, 2, "a", "b"))
	f.Add([]byte("s"), wire(uint64(1)<<63))
	f.Add([]byte("s"), wire(1, []byte("x\x00\x00\x00\x00\x00\x00\x01")))
	f.Add([]byte("l"), wire(uint64(1)<<60))
	f.Fuzz(func(t *testing.T, kinds, data []byte) {
		r := NewReader(bytes.NewReader(data), fuzzLimits)
		for _, k := range kinds {
			switch k {
			case 'n':
				r.Uint32("number")
			case 's':
				if s := r.String("string"); len(s) > len(data) {
					t.Fatalf("a string of %d bytes came out of %d", len(s), len(data))
				}
			case 'b':
				r.Bool("bool")
			case 'l':
				if l := r.Strings("strings"); len(l) > len(data)/8 {
					t.Fatalf("a list of %d entries came out of %d bytes", len(l), len(data))
				}
			}
		}
	})
}

func FuzzFramed(f *testing.F) {
	f.Add(wire(5, []byte("hello"), 1, []byte("x"), 0), 3)
	f.Add(wire(0), 1)
	f.Add(wire(uint64(1)<<63), 1)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		all := func(read func(*FramedReader) ([]byte, error)) (got []byte, rest int, err error) {
			r := NewReader(bytes.NewReader(data), Limits{})
			got, err = read(NewFramedReader(r))
			return got, r.src.Buffered(), err
		}
		want, rest, wantErr := all(func(f *FramedReader) ([]byte, error) { return io.ReadAll(f) })
		buf := make([]byte, min(max(size, 1), 100))
		for name, read := range map[string]func(*FramedReader) ([]byte, error){
			"small": func(f *FramedReader) ([]byte, error) {
				var b bytes.Buffer
				_, err := io.CopyBuffer(struct{ io.Writer }{&b}, struct{ io.Reader }{f}, buf)
				return b.Bytes(), err
			},
			"copy": func(f *FramedReader) ([]byte, error) {
				var b bytes.Buffer
				_, err := f.WriteTo(&b)
				return b.Bytes(), err
			},
			"drain": func(f *FramedReader) ([]byte, error) { return want, f.Drain() },
		} {
			got, gotRest, err := all(read)
			if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) || (err == nil && gotRest != rest) {
				t.Fatalf("%s: got %q, %d left, %v; want %q, %d left, %v", name, got, gotRest, err, want, rest, wantErr)
			}
		}
		if wantErr == nil {
			var b bytes.Buffer
			w := NewFramedWriter(NewWriter(&b))
			if _, err := w.Write(want); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(NewFramedReader(NewReader(&b, Limits{}))); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("wrote %q, read %q, %v", want, got, err)
			}
		}
	})
}

func FuzzNARStream(f *testing.F) {
	f.Add(trickyNAR(20), 7)
	f.Add(append(narFoo, "rest"...), 1)
	f.Add(narOf(")"), 100)
	f.Add(narOf("(", "type", "regular", "contents"), 100)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		src := bufio.NewReader(bytes.NewReader(data))
		got, err := io.ReadAll(NewNARStream(src))
		if !bytes.HasPrefix(data, got) {
			t.Fatal("the archive was changed")
		}
		rest := src.Buffered()
		if err == nil && len(got)+rest != len(data) {
			t.Fatalf("%d bytes were read and %d are left of %d", len(got), rest, len(data))
		}
		src = bufio.NewReader(iotest.OneByteReader(bytes.NewReader(data)))
		var b bytes.Buffer
		_, err2 := io.CopyBuffer(struct{ io.Writer }{&b}, struct{ io.Reader }{NewNARStream(src)}, make([]byte, min(max(size, 1), 100)))
		if (err == nil) != (err2 == nil) || !bytes.Equal(b.Bytes(), got) {
			t.Fatalf("in pieces: %d bytes, %v; at once: %d bytes, %v", b.Len(), err2, len(got), err)
		}
		src = bufio.NewReader(bytes.NewReader(data))
		if err3 := NewNARStream(src).Drain(); (err == nil) != (err3 == nil) || (err == nil && src.Buffered() != rest) {
			t.Fatalf("drained: %v with %d left; read: %v with %d left", err3, src.Buffered(), err, rest)
		}
	})
}

func FuzzItems(f *testing.F) {
	f.Add(wire(2, encodeMessage(f, itemProtocol, &validFoo), trickyNAR(20), encodeMessage(f, itemProtocol, &validFoo), narFoo))
	f.Add(wire(uint64(1) << 63))
	f.Fuzz(func(t *testing.T, data []byte) {
		items, err := NewItemReader(bytes.NewReader(data), storepath.DefaultDir, fuzzLimits)
		if err != nil {
			return
		}
		for {
			_, nar, err := items.Next()
			if err != nil {
				return
			}
			io.CopyN(io.Discard, nar, 100)
		}
	})
}

func FuzzDerivedPath(f *testing.F) {
	for _, s := range []string{"", "!*", "!out", "!out,dev", "^out!dev^*"} {
		f.Add("/nix/store/" + drvFoo.Base() + s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDerivedPath(storepath.DefaultDir, s)
		if err != nil {
			return
		}
		again, err := ParseDerivedPath(storepath.DefaultDir, d.Format(storepath.DefaultDir, "!"))
		if err != nil || !again.Equal(d) {
			t.Fatalf("%q: read %+v, and again %+v, %v", s, d, again, err)
		}
	})
}

func FuzzRealisation(f *testing.F) {
	b, err := realisationFoo.MarshalJSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"id":"sha256:` + hashFoo.Base16() + `!out","outPath":"` + pathFoo.Base() + `","signatures":[{"keyName":"k","sig":"s"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r, again Realisation
		if r.UnmarshalJSON(data) != nil {
			return
		}
		b, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := again.UnmarshalJSON(b); err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("read %+v, and again %+v, %v", r, again, err)
		}
	})
}

// memoryConn is a connection whose peer has said everything already.
type memoryConn struct {
	io.Reader
	io.Writer
}

func (memoryConn) Close() error { return nil }

func FuzzServer(f *testing.F) {
	for minor := 18; minor <= 37; minor++ {
		for op, s := range samples() {
			p := v1(uint8(minor))
			if p.Version >= op.Info().Since {
				b := append(greet(minor), wire(op, encodeMessage(f, p, s.request))...)
				if dm, ok := s.request.(dataMessage); ok && dm.dataForm(p) == dataFramed {
					b = append(b, wire(len(narFoo), narFoo, 0)...)
				} else if ok {
					b = append(b, narFoo...)
				}
				f.Add(append(b, wire(OpQueryAllValidPaths)...))
			}
		}
	}
	f.Add(wire(clientMagic, 0x126, 1, "realisation-with-path-not-hash", 0, 0, OpFindRoots))
	f.Fuzz(func(t *testing.T, data []byte) {
		conn, err := Accept(memoryConn{bytes.NewReader(data), io.Discard}, ServerOptions{Features: AllFeatures, Limits: fuzzLimits})
		if err != nil {
			return
		}
		serveStrictly(conn)
		conn.Close()
	})
}

func FuzzClient(f *testing.F) {
	for _, op := range []Op{OpQueryPathInfo, OpBuildPathsWithResults} {
		f.Add(wire(serverMagic, 0x126, 0, "x", 1, stderrLast, stderrNext, "x", stderrLast, encodeMessage(f, v1(38), samples()[op].response)))
	}
	f.Add(wire(serverMagic, 0x115, stderrLast, stderrRead, 5, stderrError, "no", 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := NewClient(t.Context(), memoryConn{bytes.NewReader(data), io.Discard}, ClientOptions{Features: AllFeatures, Limits: fuzzLimits})
		if err != nil {
			return
		}
		ctx := t.Context()
		c.QueryPathInfo(ctx, pathFoo)
		c.BuildPathsWithResults(ctx, targetsFoo[:1], BuildNormal)
		c.AddToStoreNar(ctx, AddToStoreNarRequest{Info: validFoo}, bytes.NewReader(narFoo))
		c.NarFromPath(ctx, pathFoo, io.Discard)
	})
}
