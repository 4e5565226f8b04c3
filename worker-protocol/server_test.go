package workerprotocol

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tvixd/tvixd/storepath"
)

// wire is what a test sends: integers and strings in order.
func wire(values ...any) []byte {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, v := range values {
		switch v := v.(type) {
		case int:
			w.Uint64(uint64(v))
		case uint64:
			w.Uint64(v)
		case Version:
			w.Uint64(uint64(v))
		case Op:
			w.Uint64(uint64(v))
		case string:
			w.String(v)
		case []byte:
			w.dst.Write(v)
		default:
			panic(fmt.Sprintf("%T", v))
		}
	}
	if err := w.Flush(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// talk sends everything to a server that handles like serve, and returns what it answers and the
// server's error.
func talk(t *testing.T, opts ServerOptions, serve func(*ServerConn) error, send []byte) ([]byte, error) {
	t.Helper()
	server, client := pipes["unix"](t)
	done := make(chan error, 1)
	go func() {
		conn, err := Accept(server, opts)
		if err == nil {
			err = serve(conn)
			conn.Close()
		}
		done <- err
	}()
	go func() {
		client.Write(send)
		client.(*net.UnixConn).CloseWrite()
	}()
	answer, err := io.ReadAll(client)
	// A server that leaves bytes unread resets the connection.
	if err != nil && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	client.Close()
	return answer, <-done
}

func TestHandshakeRefusals(t *testing.T) {
	hello := wire(serverMagic, MaxVersion)
	for name, c := range map[string]struct {
		send []byte
		want []byte
	}{
		"nothing":               {nil, nil},
		"bad magic":             {wire(0x6e697862, MaxVersion), nil},
		"garbage":               {[]byte("GET / HTTP/1.1\r\nHost: nix\r\n\r\n"), nil},
		"version 0":             {wire(clientMagic, 0), nil},
		"version 1.0":           {wire(clientMagic, 0x100), nil},
		"version 1.17":          {wire(clientMagic, 0x111), nil},
		"version after hello":   {wire(clientMagic), hello},
		"huge feature list":     {wire(clientMagic, MaxVersion, uint64(1)<<62), hello},
		"huge feature":          {wire(clientMagic, MaxVersion, 1, uint64(1)<<63), hello},
		"too much of a feature": {wire(clientMagic, MaxVersion, 1, strings.Repeat("x", 1<<20)), hello},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := talk(t, ServerOptions{}, func(*ServerConn) error { return errors.New("accepted") }, c.send)
			if err == nil || err.Error() == "accepted" {
				t.Errorf("server: %v", err)
			}
			if !bytes.Equal(got, c.want) {
				t.Errorf("answered %q, want %q", got, c.want)
			}
		})
	}
}

func TestHandshakeVersions(t *testing.T) {
	tail := wire(0, 0)
	none := wire(0)
	for name, c := range map[string]struct {
		send []byte
		want Protocol
		rest []byte // after the server's hello
	}{
		"1.18":               {wire(clientMagic, 0x112, tail), v1(18), wire(stderrLast)},
		"1.18 with affinity": {wire(clientMagic, 0x112, 1, 3, 1), v1(18), wire(stderrLast)},
		"1.33":               {wire(clientMagic, 0x121, tail), v1(33), wire("9.9", stderrLast)},
		"1.35":               {wire(clientMagic, 0x123, tail), v1(35), wire("9.9", 2, stderrLast)},
		"1.38":               {wire(clientMagic, 0x126, none, tail), v1(38), wire(2, "delete-dead-specific-referrers", "realisation-with-path-not-hash", "9.9", 2, stderrLast)},
		"1.38 with features": {wire(clientMagic, 0x126, 3, "disable-set-options", "realisation-with-path-not-hash", "unheard-of", tail), Protocol{MaxVersion, FeatureRealisationWithPath}, wire(2, "delete-dead-specific-referrers", "realisation-with-path-not-hash", "9.9", 2, stderrLast)},
		"2.0":                {wire(clientMagic, 0x200, none, tail), v1(38), wire(2, "delete-dead-specific-referrers", "realisation-with-path-not-hash", "9.9", 2, stderrLast)},
		"99.99":              {wire(clientMagic, 0x6363, none, tail), v1(38), wire(2, "delete-dead-specific-referrers", "realisation-with-path-not-hash", "9.9", 2, stderrLast)},
	} {
		t.Run(name, func(t *testing.T) {
			var got Protocol
			answer, err := talk(t, ServerOptions{Features: DaemonFeatures, DaemonVersion: "9.9", Trust: NotTrusted}, func(conn *ServerConn) error {
				got = conn.Protocol()
				_, err := conn.ReadOp()
				return err
			}, c.send)
			if err != io.EOF {
				t.Errorf("server: %v", err)
			}
			if got != c.want {
				t.Errorf("served at %s, want %s", got, c.want)
			}
			if want := append(wire(serverMagic, MaxVersion), c.rest...); !bytes.Equal(answer, want) {
				t.Errorf("answered\n%q, want\n%q", answer, want)
			}
		})
	}
}

func TestHandshakeNotAdmitted(t *testing.T) {
	opts := ServerOptions{Admit: func(Protocol) error { return errors.New("user 'x' is not allowed") }}
	answer, err := talk(t, opts, func(*ServerConn) error { return errors.New("accepted") }, wire(clientMagic, 0x112, 0, 0))
	if err == nil || err.Error() != "user 'x' is not allowed" {
		t.Errorf("server: %v", err)
	}
	if want := wire(serverMagic, MaxVersion, stderrError, "user 'x' is not allowed", 1); !bytes.Equal(answer, want) {
		t.Errorf("answered %q, want %q", answer, want)
	}
}

// serveStrictly answers IsValidPath with true, and everything else with an error.
func serveStrictly(conn *ServerConn) error {
	for {
		op, err := conn.ReadOp()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !op.Served() {
			err = conn.Fail(fmt.Errorf("invalid operation %d", op))
		} else if request := op.Info().NewRequest(); true {
			err = conn.ReadRequest(request)
			switch {
			case err != nil:
				err = conn.Fail(err)
			case op == OpIsValidPath:
				err = conn.Finish(&IsValidPathResponse{true})
			default:
				err = conn.Fail(errors.New("refused"))
			}
		}
		if err != nil {
			return err
		}
	}
}

// greet is the handshake of a client of 1.minor below 38, and welcome the server's part.
func greet(minor int) []byte { return wire(clientMagic, 0x100+minor, 0, 0) }

func welcome(minor int) []byte {
	b := wire(serverMagic, MaxVersion)
	if minor >= 33 {
		b = append(b, wire("")...)
	}
	if minor >= 35 {
		b = append(b, wire(0)...)
	}
	return append(b, wire(stderrLast)...)
}

func remoteError(minor int, msg string) []byte {
	if minor < 26 {
		return wire(stderrError, msg, 1)
	}
	return wire(stderrError, "Error", 0, "Error", msg, 0, 0)
}

// TestErrorsLeaveTheConnectionUsable sends a request that must fail and then a good one.
func TestErrorsLeaveTheConnectionUsable(t *testing.T) {
	foo := "/nix/store/" + pathFoo.Base()
	drv := "/nix/store/" + drvFoo.Base()
	info := wire(foo, "", hashFoo.Base16(), 0, 0, 0, 0, 0, "")
	frames := wire(5, []byte("hello"), uint64(len(dirNAR)), dirNAR, 0)
	good := wire(OpIsValidPath, foo)
	for name, c := range map[string]struct {
		minor int
		send  []byte
		err   string
	}{
		"bad path":                    {37, wire(OpIsValidPath, "/nix/store/x"), ""},
		"path outside":                {37, wire(OpQueryPathInfo, "/etc/passwd"), "path '/etc/passwd' is not in the Nix store"},
		"empty path":                  {37, wire(OpIsValidPath, ""), ""},
		"one bad of three":            {37, wire(OpQueryValidPaths, 3, foo, "/tmp", foo, 1), "path '/tmp' is not in the Nix store"},
		"bad hash part":               {37, wire(OpQueryPathFromHashPart, "zz"), ""},
		"bad build mode":              {37, wire(OpBuildPaths, 1, foo, 7), "invalid build mode 7"},
		"bad GC action":               {37, wire(OpCollectGarbage, 4, 0, 0, 0, 0, 0, 0), "invalid GC action 4"},
		"specific paths":              {37, wire(OpCollectGarbage, 2, 1, foo, 0, 0, 0, 0, 0), errSpecificPaths.Error()},
		"bad derived path":            {37, wire(OpQueryMissing, 1, drv+"!"), ""},
		"bad realisation":             {37, wire(OpRegisterDrvOutput, "{"), ""},
		"refused add, framed":         {37, append(wire(OpAddToStoreNar, info, 0, 0), frames...), "refused"},
		"refused add, 1.23":           {23, append(wire(OpAddToStoreNar, info, 0, 0), frames...), "refused"},
		"refused add, tunnelled":      {22, wire(OpAddToStoreNar, info, 0, 0), "refused"},
		"refused add, bare":           {20, append(wire(OpAddToStoreNar, info, 0, 0), dirNAR...), "refused"},
		"bad add, framed":             {37, append(wire(OpAddToStoreNar, "/x", "", "?", 0, 0, 0, 0, 0, "", 0, 0), frames...), "path '/x' is not in the Nix store"},
		"bad add, bare":               {18, append(wire(OpAddToStoreNar, "/x", "", "?", 0, 0, 0, 0, 0, "", 0, 0), narFoo...), "path '/x' is not in the Nix store"},
		"bad ingestion method":        {24, append(wire(OpAddToStore, "x", 1, 2, "sha256"), narFoo...), "unsupported FileIngestionMethod with value of 2; you may need to upgrade nix-daemon"},
		"bad method":                  {37, append(wire(OpAddToStore, "x", "fixed:zip:sha256", 0, 0), frames...), ""},
		"refused items":               {37, append(wire(OpAddMultipleToStore, 0, 0), frames...), "refused"},
		"refused build log, old form": {25, append(wire(OpAddBuildLog, drvFoo.Base()), frames...), "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			send := append(append(greet(c.minor), c.send...), good...)
			answer, err := talk(t, ServerOptions{}, serveStrictly, send)
			if err != nil {
				t.Errorf("server: %v", err)
			}
			rest, ok := bytes.CutPrefix(answer, welcome(c.minor))
			if !ok {
				t.Fatalf("answered %q", answer)
			}
			rest, ok = bytes.CutSuffix(rest, wire(stderrLast, 1))
			if !ok {
				t.Fatalf("the good request was not answered: %q", rest)
			}
			if c.err != "" && !bytes.Equal(rest, remoteError(c.minor, c.err)) {
				t.Errorf("got %q, want %q", rest, remoteError(c.minor, c.err))
			}
			if n := bytes.Count(rest, wire(stderrError)); n != 1 {
				t.Errorf("got %d errors: %q", n, rest)
			}
		})
	}
}

// TestViolationsEndTheConnection sends what cannot be understood, and then a good request that
// must not be answered. The claims are far beyond what is sent.
func TestViolationsEndTheConnection(t *testing.T) {
	foo := "/nix/store/" + pathFoo.Base()
	const huge = uint64(1) << 63
	info := wire(foo, "", hashFoo.Base16(), 0, 0, 0, 0, 0, "")
	for name, c := range map[string]struct {
		minor int
		send  []byte
		err   string // part of the server's text to the client
	}{
		"unknown operation":   {37, wire(999), "invalid operation 999"},
		"removed operation":   {37, wire(4), "invalid operation 4"},
		"huge path":           {37, wire(OpIsValidPath, huge), "read path: a string of 9223372036854775808 bytes"},
		"huge list":           {37, wire(OpQueryValidPaths, huge), "read paths: a list of 9223372036854775808 entries"},
		"large list":          {37, wire(OpQueryValidPaths, 8_000_000), "unexpected EOF"},
		"huge map":            {37, wire(OpSetOptions, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, huge), "read settings: a list of 9223372036854775808 entries"},
		"long link":           {37, wire(OpAddIndirectRoot, 64<<10+1, "x"), "read link: a string of 65537 bytes"},
		"large string":        {37, wire(OpAddIndirectRoot, 64<<10, "x"), "unexpected EOF"},
		"padding":             {37, append(wire(OpAddIndirectRoot), "\x01\x00\x00\x00\x00\x00\x00\x00x\x00\x00\x00\x00\x00\x00\x01"...), "padding is not zero"},
		"long padding":        {37, append(wire(OpAddIndirectRoot, 40001), append(bytes.Repeat([]byte("x"), 40001), "\x00\x00\x00\x00\x00\x00y"...)...), "padding is not zero"},
		"end in a number":     {37, wire(OpAddIndirectRoot)[:4], ""},
		"end in a request":    {37, wire(OpSetOptions, 0, 0), "unexpected EOF"},
		"bad optional":        {37, wire(OpCollectGarbage), "unexpected EOF"},
		"operation too large": {37, wire(huge), ""},
		"huge frame":          {37, wire(OpAddToStoreNar, info, 0, 0, huge), "refused"},
		"end in a frame":      {37, wire(OpAddToStoreNar, info, 0, 0, 100, "x"), "refused"},
		"no NAR":              {20, wire(OpAddToStoreNar, info, 0, 0, "no archive"), "refused"},
		"endless NAR":         {20, wire(OpAddToStoreNar, info, 0, 0, narMagic, "(", "type", "regular", "contents", huge), "refused"},
		"NAR that ends":       {20, wire(OpAddToStoreNar, info, 0, 0, dirNAR[:len(dirNAR)-8]), "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := talk(t, ServerOptions{}, serveStrictly, append(greet(c.minor), c.send...))
			if err == nil {
				t.Error("the server does not complain")
			}
			rest, ok := bytes.CutPrefix(answer, welcome(c.minor))
			if !ok {
				t.Fatalf("answered %q", answer)
			}
			if !bytes.Contains(rest, []byte(c.err)) {
				t.Errorf("answered %q without %q", rest, c.err)
			}
			if c.err != "" && !bytes.HasPrefix(rest, wire(stderrError)) {
				t.Errorf("answered %q", rest)
			}
		})
	}
}

func TestErrorForms(t *testing.T) {
	full := &Error{Level: LevelWarn, Msg: "ignored", Traces: []string{"while a", "while b"}, Status: 101}
	wrapped := fmt.Errorf("building: %w", full)
	for minor, want := range map[uint8][]byte{
		25: wire("building: ignored", 101),
		26: wire("Error", 1, "Error", "building: ignored", 0, 2, 0, "while a", 0, "while b"),
	} {
		if got := encodeMessage(t, v1(minor), errorOf(wrapped)); !bytes.Equal(got, want) {
			t.Errorf("1.%d: got %q, want %q", minor, got, want)
		}
	}
	if got := encodeMessage(t, v1(18), errorOf(io.EOF)); !bytes.Equal(got, wire("EOF", 1)) {
		t.Errorf("a plain error is %q", got)
	}
}

// TestRefusedAddsStopTheUpload checks that the client learns of an error while it is sending.
func TestRefusedAddsStopTheUpload(t *testing.T) {
	for _, minor := range []uint8{18, 21, 23, 38} {
		for pipe := range pipes {
			c := connect(t, pipe, v1(minor), ServerOptions{}, nil, serveStrictly)
			// The test ends only if the upload does; but the bare form has to be sent whole.
			size := int64(1 << 62)
			if minor < 21 {
				size = 1 << 20
			}
			nar := io.MultiReader(bytes.NewReader(wire(narMagic, "(", "type", "regular", "contents", uint64(size))),
				io.LimitReader(zeroReader{}, size), bytes.NewReader(wire(")")))
			err := c.AddToStoreNar(t.Context(), AddToStoreNarRequest{Info: validFoo}, nar)
			var remote *Error
			if !errors.As(err, &remote) || remote.Msg != "refused" {
				t.Fatalf("1.%d: %v", minor, err)
			}
			if valid, err := c.IsValidPath(t.Context(), pathFoo); err != nil || !valid {
				t.Errorf("1.%d: afterwards: %v, %v", minor, valid, err)
			}
		}
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestUnreadDataIsSkipped checks that a server need not read what it does not want.
func TestUnreadDataIsSkipped(t *testing.T) {
	for _, minor := range []uint8{18, 20, 21, 22, 23, 38} {
		c := connect(t, "unix", v1(minor), ServerOptions{}, nil, func(conn *ServerConn) error {
			for {
				op, err := conn.ReadOp()
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
				request := op.Info().NewRequest()
				if err := conn.ReadRequest(request); err != nil {
					return err
				}
				if conn.Data() != nil {
					if _, err := io.ReadFull(conn.Data(), make([]byte, 100)); err != nil {
						return err
					}
				}
				if err := conn.Finish(op.Info().NewResponse()); err != nil {
					return err
				}
			}
		})
		for range 2 {
			if err := c.AddToStoreNar(t.Context(), AddToStoreNarRequest{Info: validFoo}, bytes.NewReader(dirNAR)); err != nil {
				t.Fatalf("1.%d: %v", minor, err)
			}
			if _, err := c.IsValidPath(t.Context(), pathFoo); err != nil {
				t.Fatalf("1.%d: %v", minor, err)
			}
		}
	}
}

// TestLogOrder sends from many goroutines, and all of it must arrive before the response, each
// goroutine's messages in order.
func TestLogOrder(t *testing.T) {
	const goroutines, each = 8, 500
	var got []LogMessage
	c := connect(t, "unix", v1(38), ServerOptions{}, func(m LogMessage) { got = append(got, m) }, func(conn *ServerConn) error {
		conn.Log(LevelInfo, "before the operation")
		for {
			_, err := conn.ReadOp()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := conn.ReadRequest(&IsValidPathRequest{}); err != nil {
				return err
			}
			var wg sync.WaitGroup
			for g := range goroutines {
				wg.Go(func() {
					for i := range each {
						conn.Result(ActivityID(g+1), ResBuildLogLine, []Field{IntField(uint64(i))})
					}
				})
			}
			wg.Wait()
			if err := conn.Fail(errors.New("done")); err != nil {
				return err
			}
		}
	})
	for range 3 {
		got = nil
		var remote *Error
		if _, err := c.IsValidPath(t.Context(), pathFoo); !errors.As(err, &remote) {
			t.Fatal(err)
		}
		next := map[ActivityID]uint64{}
		lines := 0
		for _, m := range got {
			if m.Kind == LogNext {
				continue
			}
			if m.Fields[0].Int != next[m.ID] {
				t.Fatalf("activity %d: got message %d, want %d", m.ID, m.Fields[0].Int, next[m.ID])
			}
			next[m.ID]++
			lines++
		}
		if lines != goroutines*each {
			t.Errorf("got %d messages, want %d", lines, goroutines*each)
		}
	}
}

func TestVerbosity(t *testing.T) {
	var got []string
	c := connect(t, "unix", v1(38), ServerOptions{}, func(m LogMessage) { got = append(got, m.Text) }, func(conn *ServerConn) error {
		conn.SetVerbosity(LevelInfo)
		for {
			if _, err := conn.ReadOp(); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := conn.ReadRequest(&IsValidPathRequest{}); err != nil {
				return err
			}
			conn.Log(LevelInfo, "info")
			conn.Log(LevelTalkative, "talkative")
			if err := conn.Finish(&IsValidPathResponse{}); err != nil {
				return err
			}
		}
	})
	if _, err := c.IsValidPath(t.Context(), pathFoo); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, "") != "info\n" {
		t.Errorf("got %q", got)
	}
}

// TestSilentClient checks that a client that does not read stops no producer of messages, and that
// closing the connection ends everything.
func TestSilentClient(t *testing.T) {
	server, client := net.Pipe()
	defer client.Close()
	go client.Write(append(greet(37), wire(OpIsValidPath, "/nix/store/"+pathFoo.Base())...))
	accepted := make(chan *ServerConn)
	go func() {
		conn, err := Accept(server, ServerOptions{LogBuffer: 10_000, LogStall: time.Millisecond})
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	}()
	if _, err := io.ReadFull(client, make([]byte, len(welcome(37)))); err != nil {
		t.Fatal(err)
	}
	conn := <-accepted
	if _, err := conn.ReadOp(); err != nil {
		t.Fatal(err)
	}
	if err := conn.ReadRequest(&IsValidPathRequest{}); err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		conn.Log(LevelError, fmt.Sprintf("line %d", i))
	}
	conn.queue.mu.Lock()
	if conn.queue.bytes > 10_000 || conn.queue.nLost == 0 {
		t.Errorf("%d bytes wait, %d messages were lost", conn.queue.bytes, conn.queue.nLost)
	}
	conn.queue.mu.Unlock()
	finished := make(chan error)
	go func() { finished <- conn.Finish(&IsValidPathResponse{}) }()
	conn.Close()
	if err := <-finished; err == nil {
		t.Error("the response reached nobody, and nobody complains")
	}
	conn.Log(LevelError, "after the end")
}

func TestWriteTimeout(t *testing.T) {
	server, client := net.Pipe()
	defer client.Close()
	go client.Write(greet(37))
	_, err := Accept(server, ServerOptions{WriteTimeout: time.Millisecond})
	if err == nil {
		t.Error("a client that does not read was waited for")
	}
}

func TestMisuseIsAnError(t *testing.T) {
	send := append(greet(37), wire(OpIsValidPath, "/nix/store/"+pathFoo.Base())...)
	_, err := talk(t, ServerOptions{}, func(conn *ServerConn) error {
		if conn.Finish(&EmptyResponse{}) == nil || conn.Fail(io.EOF) == nil || conn.EndData() == nil || conn.ReadRequest(&EmptyRequest{}) == nil {
			t.Error("an operation was ended that did not begin")
		}
		if _, err := conn.ReadOp(); err != nil {
			return err
		}
		if _, err := conn.ReadOp(); err == nil {
			t.Error("a second operation was read")
		}
		if err := conn.ReadRequest(&IsValidPathRequest{}); err != nil {
			return err
		}
		if conn.Dir() != storepath.DefaultDir {
			t.Errorf("dir %s", conn.Dir())
		}
		return conn.Finish(&IsValidPathResponse{})
	}, send)
	if err != nil {
		t.Error(err)
	}
}
