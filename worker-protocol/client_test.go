package workerprotocol

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// scripted connects a client of 1.minor to a server that says what it is told and then leaves.
func scripted(t *testing.T, minor uint8, say ...any) (*Client, error) {
	t.Helper()
	server, client := pipes["unix"](t)
	go func() {
		server.Write(wire(say...))
		server.(*net.UnixConn).CloseWrite()
		io.Copy(io.Discard, server)
		server.Close()
	}()
	c, err := NewClient(t.Context(), client, ClientOptions{Version: MakeVersion(1, minor)})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func TestClientHandshake(t *testing.T) {
	for name, c := range map[string]struct {
		say []any
		err string
	}{
		"nothing":            {nil, "read server magic: unexpected EOF"},
		"bad magic":          {[]any{clientMagic, MaxVersion}, "is not that of a Nix daemon"},
		"text":               {[]any{[]byte("error: go away\n and stay there")}, "is not that of a Nix daemon"},
		"too old":            {[]any{serverMagic, 0x111}, "1.17 is not supported"},
		"other major":        {[]any{serverMagic, 0x226}, "2.38 is not supported"},
		"bad trust":          {[]any{serverMagic, 0x123, "x", 3}, "invalid trust 3"},
		"refused":            {[]any{serverMagic, 0x112, stderrError, "not you", 1}, "not you"},
		"refused with frame": {[]any{serverMagic, 0x126, 0, "", 0, stderrError, "Error", 0, "Error", "not you", 0, 0}, "not you"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := scripted(t, 38, c.say...); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
		})
	}
	// A server that is newer than we are.
	c, err := scripted(t, 38, serverMagic, 0x163, 1, "unheard-of", "3.0", 1, stderrNext, "hello\n", stderrLast)
	if err != nil {
		t.Fatal(err)
	}
	if c.Protocol() != v1(38) || c.Info() != (HandshakeInfo{"3.0", Trusted}) {
		t.Errorf("negotiated %s, %+v", c.Protocol(), c.Info())
	}
}

func TestClientMeetsABadServer(t *testing.T) {
	hello := []any{serverMagic, 0x125, "", 0, stderrLast}
	huge := uint64(1) << 63
	for name, c := range map[string]struct {
		say    []any
		err    string
		usable bool
	}{
		"leaves":             {nil, "unexpected EOF", false},
		"unknown message":    {[]any{0x1234}, "the tag 0x1234 is not known", false},
		"data":               {[]any{stderrWrite, "x"}, "data was sent", false},
		"wants data":         {[]any{stderrRead, 10}, "wants data where there is none", false},
		"huge text":          {[]any{stderrNext, huge}, "a string of 9223372036854775808 bytes", false},
		"huge fields":        {[]any{stderrResult, 1, 101, huge}, "a list of 9223372036854775808 entries", false},
		"bad field":          {[]any{stderrResult, 1, 101, 1, 2}, "the type 2 is not known", false},
		"huge answer":        {[]any{stderrLast, huge}, "a list of 9223372036854775808 entries", false},
		"bad path":           {[]any{stderrLast, 1, "/tmp/x"}, "path '/tmp/x' is not in the Nix store", true},
		"error":              {[]any{stderrError, "Error", 0, "Error", "no", 0, 1, 0, "while"}, "no", true},
		"error, other kind":  {[]any{stderrError, "Warning", 0, "Error", "no", 0, 0}, "the kind \"Warning\" is not known", false},
		"error with a place": {[]any{stderrError, "Error", 0, "Error", "no", 1}, "it has a position", false},
	} {
		t.Run(name, func(t *testing.T) {
			say := append(append(hello[:len(hello):len(hello)], c.say...), stderrLast, 0)
			if !c.usable {
				say = say[:len(say)-2]
			}
			client, err := scripted(t, 38, say...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.QueryReferrers(t.Context(), pathFoo); err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
			if _, err := client.QueryReferrers(t.Context(), pathFoo); (err == nil) != c.usable {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestClientIsCancelled(t *testing.T) {
	why := errors.New("no longer wanted")
	server, client := net.Pipe()
	defer server.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		io.ReadFull(server, make([]byte, 16))
		cancel(why)
	}()
	if _, err := NewClient(ctx, client, ClientOptions{}); !errors.Is(err, why) {
		t.Errorf("handshake: %v", err)
	}

	ctx, cancel = context.WithCancelCause(t.Context())
	c := connect(t, "unix", v1(38), ServerOptions{}, nil, func(conn *ServerConn) error {
		if _, err := conn.ReadOp(); err != nil {
			return err
		}
		if err := conn.ReadRequest(&IsValidPathRequest{}); err != nil {
			return err
		}
		cancel(why)
		if n, err := conn.r.src.Read(make([]byte, 1)); n > 0 || err == nil {
			return errors.New("the client does not hang up")
		}
		return nil
	})
	if _, err := c.IsValidPath(ctx, pathFoo); !errors.Is(err, why) {
		t.Errorf("operation: %v", err)
	}
	if _, err := c.IsValidPath(t.Context(), pathFoo); err == nil {
		t.Error("a closed connection was used")
	}
	if _, err := c.IsValidPath(ctx, pathFoo); err == nil {
		t.Error("a cancelled context was used")
	}
}

// TestSourceFails checks that half of the data is never taken for all of it.
func TestSourceFails(t *testing.T) {
	broken := errors.New("broken disk")
	for _, minor := range []uint8{18, 21, 25, 38} {
		accepted := false
		server, client := pipes["unix"](t)
		done := make(chan error, 1)
		go func() {
			conn, err := Accept(server, ServerOptions{})
			if err != nil {
				done <- err
				return
			}
			defer conn.Close()
			op, err := conn.ReadOp()
			if err == nil {
				err = conn.ReadRequest(op.Info().NewRequest())
			}
			if err == nil {
				_, err = io.Copy(io.Discard, conn.Data())
				accepted = err == nil
				conn.Fail(errors.New("half of it is missing"))
			}
			done <- err
		}()
		c, err := NewClient(t.Context(), client, ClientOptions{Version: MakeVersion(1, minor)})
		if err != nil {
			t.Fatal(err)
		}
		src := io.MultiReader(bytes.NewReader(dirNAR[:1000]), errorReader{broken})
		if err := c.AddToStoreNar(t.Context(), AddToStoreNarRequest{Info: validFoo}, src); !errors.Is(err, broken) {
			t.Errorf("1.%d: %v", minor, err)
		}
		c.Close()
		<-done
		if accepted {
			t.Errorf("1.%d: the server read it to its end", minor)
		}
	}
}

// TestSendFramesStops has a server that answers before one frame or another.
func TestSendFramesStops(t *testing.T) {
	for frames := range 4 {
		var b bytes.Buffer
		asked := 0
		stop := func() error {
			if asked++; asked > frames {
				return errAnswered
			}
			return nil
		}
		// Two whole frames, and one that Close sends.
		data := bytes.Repeat([]byte("x"), 2*maxFrame+1)
		if err := sendFrames(NewWriter(&b), stop, copyFrom(bytes.NewReader(data))); err != nil {
			t.Errorf("%d frames: %v", frames, err)
		}
		r := NewReader(&b, Limits{})
		got, err := io.ReadAll(NewFramedReader(r))
		if want := min(frames*maxFrame, len(data)); err != nil || len(got) != want {
			t.Errorf("%d frames: got %d bytes, %v, want %d", frames, len(got), err, want)
		}
		if _, err := r.src.Peek(1); err != io.EOF {
			t.Errorf("%d frames: there is something behind the stream", frames)
		}
	}
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// TestAddToOldStore checks the ways of adding texts and plain files before 1.25.
func TestAddToOldStore(t *testing.T) {
	var got []Op
	c := connect(t, "unix", v1(24), ServerOptions{}, nil, func(conn *ServerConn) error {
		for {
			op, err := conn.ReadOp()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			got = append(got, op)
			request := op.Info().NewRequest()
			if err := conn.ReadRequest(request); err != nil {
				return err
			}
			response := samples()[op].response
			switch m := request.(type) {
			case *AddTextToStoreRequest:
				if m.Text != "hello\n" || m.Name != "text" {
					t.Errorf("got %+v", m)
				}
			case *AddToStoreRequest:
				data, err := io.ReadAll(conn.Data())
				if err != nil {
					return err
				}
				if m.Method != storepath.Flat || m.Algo != nixhash.SHA1 || !bytes.Equal(data, narFoo) || !conn.Data().IsNAR() {
					t.Errorf("got %+v, %q", m, data)
				}
			case *PathRequest:
				response = &QueryPathInfoResponse{&infoFoo}
			}
			if err := conn.Finish(response); err != nil {
				return err
			}
		}
	})
	for _, request := range []AddToStoreRequest{
		{Name: "text", Method: storepath.Text, Algo: nixhash.SHA256},
		{Name: "file", Method: storepath.Flat, Algo: nixhash.SHA1},
	} {
		info, err := c.AddToStore(t.Context(), request, strings.NewReader("hello\n"))
		if err != nil {
			t.Fatal(err)
		}
		if info.Path != pathFoo || info.NarHash != hashFoo {
			t.Errorf("got %+v", info)
		}
	}
	for _, request := range []AddToStoreRequest{
		{Name: "git", Method: storepath.Git, Algo: nixhash.SHA1},
		{Name: "refs", Method: storepath.Flat, Algo: nixhash.SHA1, References: []storepath.Path{pathFoo}},
		{Name: "repair", Method: storepath.NAR, Algo: nixhash.SHA1, Repair: true},
	} {
		if _, err := c.AddToStore(t.Context(), request, strings.NewReader("")); err == nil {
			t.Errorf("%s: was sent", request.Name)
		}
	}
	if _, err := c.IsValidPath(t.Context(), pathFoo); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestNotExpressible checks that what a protocol cannot say is not sent.
func TestNotExpressible(t *testing.T) {
	opaqueDrv := []DerivedPath{{Path: drvFoo}}
	dynamic := []DerivedPath{{Path: drvFoo, Via: []string{"out"}, All: true}}
	noDrv := []DerivedPath{{Path: pathFoo, All: true}}
	byHash := DrvOutput{Hash: hashFoo, Output: "out"}
	for _, c := range []struct {
		m    Message
		p    Protocol
		good bool
	}{
		{&BuildPathsRequest{Targets: opaqueDrv}, v1(29), false},
		{&BuildPathsRequest{Targets: opaqueDrv}, v1(30), true},
		{&QueryMissingRequest{dynamic}, v1(29), false},
		{&QueryMissingRequest{dynamic}, v1(30), true},
		{&QueryMissingRequest{noDrv}, v1(29), false},
		{&BuildPathsWithResultsResponse{[]KeyedBuildResult{{Path: dynamic[0]}}}, v1(29), false},
		{&QueryRealisationRequest{byHash}, v1(38), true},
		{&QueryRealisationRequest{byHash}, withPath, false},
		{&RegisterDrvOutputRequest{Realisation{ID: byHash}}, withPath, false},
		{&CollectGarbageRequest{Action: GCDeleteDead, Paths: []storepath.Path{pathFoo}}, v1(38), false},
		{&CollectGarbageRequest{Action: GCDeleteDead, Paths: []storepath.Path{pathFoo}}, Protocol{MaxVersion, DaemonFeatures}, true},
		{&CollectGarbageRequest{Action: GCDeleteSpecific, DeleteReferrers: true}, v1(38), false},
	} {
		w := NewWriter(io.Discard)
		if err := WriteMessage(w, c.p, storepath.DefaultDir, c.m); (err == nil) != c.good || (err != nil) != (w.dst.Buffered() == 0) {
			t.Errorf("%T in %s: %v, and %d bytes were written", c.m, c.p, err, w.dst.Buffered())
		}
	}
}

func TestDerivedPathForms(t *testing.T) {
	drv := "/nix/store/" + drvFoo.Base()
	foo := "/nix/store/" + pathFoo.Base()
	for _, c := range []struct {
		s    string
		old  *DerivedPath // before 1.30; nil is an error
		want *DerivedPath // since
	}{
		{foo, &DerivedPath{Path: pathFoo}, &DerivedPath{Path: pathFoo}},
		{drv, &DerivedPath{Path: drvFoo, All: true}, &DerivedPath{Path: drvFoo}},
		{drv + "!*", &DerivedPath{Path: drvFoo, All: true}, &DerivedPath{Path: drvFoo, All: true}},
		{drv + "!out,dev,out", &DerivedPath{Path: drvFoo, Outputs: []string{"dev", "out"}}, &DerivedPath{Path: drvFoo, Outputs: []string{"dev", "out"}}},
		{drv + "^out", nil, &DerivedPath{Path: drvFoo, Outputs: []string{"out"}}},
		{drv + "!out!*", nil, &DerivedPath{Path: drvFoo, Via: []string{"out"}, All: true}},
		{drv + "^out!a^b,c", nil, &DerivedPath{Path: drvFoo, Via: []string{"out", "a"}, Outputs: []string{"b", "c"}}},
		{drv + "!", &DerivedPath{Path: drvFoo, All: true}, nil},
		{drv + "!,out,", &DerivedPath{Path: drvFoo, Outputs: []string{"out"}}, nil},
		{drv + "!!out", nil, nil},
		{drv + "!a/b", nil, nil},
		{drv + strings.Repeat("!o", 100), nil, nil},
		{"", nil, nil},
		{"/etc/passwd!out", nil, nil},
	} {
		if got, err := ParseDerivedPath(storepath.DefaultDir, c.s); (err == nil) != (c.want != nil) || (err == nil && !got.Equal(*c.want)) {
			t.Errorf("%q: got %+v, %v, want %+v", c.s, got, err, c.want)
		}
		if got, err := parseOldDerivedPath(storepath.DefaultDir, c.s); (err == nil) != (c.old != nil) || (err == nil && !got.Equal(*c.old)) {
			t.Errorf("old %q: got %+v, %v, want %+v", c.s, got, err, c.old)
		}
	}
}

func TestActivityIDsAreUnique(t *testing.T) {
	if a, b := NewActivityID(), NewActivityID(); a == b || a == 0 {
		t.Errorf("got %d and %d", a, b)
	}
}
