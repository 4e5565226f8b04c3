package workerprotocol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/storepath"
)

// encodeMessage is m on the wire.
func encodeMessage(t testing.TB, p Protocol, m Message) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	if err := WriteMessage(w, p, storepath.DefaultDir, m); err != nil {
		t.Fatalf("%T in %s: %v", m, p, err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// decodeMessage reads data, all of it, as a message of m's type.
func decodeMessage(t testing.TB, p Protocol, m Message, data []byte) Message {
	t.Helper()
	r := NewReader(bytes.NewReader(data), Limits{})
	got := reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message)
	if err := ReadMessage(r, p, storepath.DefaultDir, got); err != nil {
		t.Fatalf("%T in %s: %v", m, p, err)
	}
	if _, err := r.src.Peek(1); err != io.EOF {
		t.Fatalf("%T in %s: bytes are left over", m, p)
	}
	return got
}

func TestSamplesAreComplete(t *testing.T) {
	for _, op := range Ops() {
		s, ok := samples()[op.Op]
		if ok != op.Op.Served() {
			t.Errorf("%s: served is %v, there is a sample: %v", op.Name, op.Op.Served(), ok)
			continue
		}
		if ok && (reflect.TypeOf(s.request) != reflect.TypeOf(op.NewRequest()) || reflect.TypeOf(s.response) != reflect.TypeOf(op.NewResponse())) {
			t.Errorf("%s: the sample has other types than the table", op.Name)
		}
	}
}

// TestMessagesRoundTrip checks that what is read is what was written, in all protocols.
func TestMessagesRoundTrip(t *testing.T) {
	for _, p := range protocols() {
		for op, s := range samples() {
			if p.Version < op.Info().Since {
				continue
			}
			for _, m := range []Message{s.request, s.response} {
				data := encodeMessage(t, p, m)
				got := decodeMessage(t, p, m, data)
				if again := encodeMessage(t, p, got); !bytes.Equal(again, data) {
					t.Errorf("%s %T in %s:\nfirst %q\nagain %q", op, m, p, data, again)
				}
				if p.Features == 0 && p.Version == MaxVersion && !sameMessage(m, got) {
					t.Errorf("%s in %s:\nwrote %+v\nread  %+v", op, p, m, got)
				}
			}
		}
	}
}

// sameMessage compares messages without what the newest protocol without features does not send.
func sameMessage(a, b Message) bool {
	return reflect.DeepEqual(withoutDrv(a), withoutDrv(b))
}

func withoutDrv(m Message) Message {
	outputs := func(results map[string]Realisation) map[string]Realisation {
		out := map[string]Realisation{}
		for name, r := range results {
			r.ID.Drv = storepath.Path{}
			out[name] = r
		}
		return out
	}
	switch m := m.(type) {
	case *QueryRealisationRequest:
		c := *m
		c.ID.Drv = storepath.Path{}
		return &c
	case *QueryRealisationResponse:
		r := *m.Realisation
		r.ID.Drv = storepath.Path{}
		return &QueryRealisationResponse{&r}
	case *RegisterDrvOutputRequest:
		c := *m
		c.Realisation.ID.Drv = storepath.Path{}
		return &c
	case *BuildDerivationResponse:
		c := *m
		c.Result.BuiltOutputs = outputs(c.Result.BuiltOutputs)
		return &c
	case *BuildPathsWithResultsResponse:
		c := BuildPathsWithResultsResponse{slices.Clone(m.Results)}
		for i := range c.Results {
			c.Results[i].BuiltOutputs = outputs(c.Results[i].BuiltOutputs)
		}
		return &c
	}
	return m
}

// pipes are the kinds of connections that are tried.
var pipes = map[string]func(t *testing.T) (server, client net.Conn){
	"pipe": func(*testing.T) (net.Conn, net.Conn) { return net.Pipe() },
	"unix": func(t *testing.T) (net.Conn, net.Conn) { return unixPair(t) },
}

// unixPair is the two ends of a connection over a socket of no name.
func unixPair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// connect connects a client to handle, which runs in a goroutine until the test ends. The
// handler must return when the client has left.
func connect(t *testing.T, pipe string, p Protocol, opts ServerOptions, log func(LogMessage), handle func(*ServerConn) error) *Client {
	t.Helper()
	serverSide, clientSide := pipes[pipe](t)
	done := make(chan error, 1)
	go func() {
		conn, err := Accept(serverSide, opts)
		if err == nil {
			err = handle(conn)
			conn.Close()
		}
		done <- err
	}()
	client, err := NewClient(t.Context(), clientSide, ClientOptions{Version: p.Version, Features: p.Features, Log: log})
	if err != nil {
		t.Fatalf("connect in %s: %v (server: %v)", p, err, <-done)
	}
	t.Cleanup(func() {
		client.Close()
		if err := <-done; err != nil {
			t.Errorf("server in %s: %v", p, err)
		}
	})
	return client
}

// serveSamples answers every operation with its sample, after comparing request and data.
func serveSamples(conn *ServerConn) error {
	for {
		op, err := conn.ReadOp()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		s := samples()[op]
		request := op.Info().NewRequest()
		if err := conn.ReadRequest(request); err != nil {
			return err
		}
		if err := checkRequest(conn, op, request, s); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		id := NewActivityID()
		conn.StartActivity(id, LevelInfo, ActBuild, "building", []Field{StringField("x"), IntField(7)}, 0)
		conn.Result(id, ResBuildLogLine, []Field{StringField("line")})
		conn.StopActivity(id)
		conn.Log(LevelError, "done")
		if op != OpNarFromPath {
			if err := conn.Finish(s.response); err != nil {
				return err
			}
			continue
		}
		w, err := conn.FinishWithData(s.response)
		if err != nil {
			return err
		}
		if _, err := w.Write(dirNAR); err != nil {
			return err
		}
		if err := conn.EndData(); err != nil {
			return err
		}
	}
}

func checkRequest(conn *ServerConn, op Op, got Message, s sample) error {
	var a, b bytes.Buffer
	for _, m := range []struct {
		b *bytes.Buffer
		m Message
	}{{&a, got}, {&b, s.request}} {
		w := NewWriter(m.b)
		if err := WriteMessage(w, conn.Protocol(), conn.Dir(), m.m); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		return fmt.Errorf("got request %+v, want %+v", got, s.request)
	}
	if (conn.Data() != nil) != (s.data != nil) {
		return errors.New("there is data where none should be, or the other way round")
	}
	if s.data == nil {
		return nil
	}
	data, err := io.ReadAll(conn.Data())
	if err != nil {
		return err
	}
	if !bytes.Equal(data, s.data) {
		return fmt.Errorf("got %d bytes of data, want %d", len(data), len(s.data))
	}
	return nil
}

// calls has a call of every method with the sample, as a message of the response's type.
func calls(ctx context.Context, c *Client) map[Op]func() (any, error) {
	s := samples()
	foo := func(f func(context.Context, storepath.Path) ([]storepath.Path, error)) func() (any, error) {
		return func() (any, error) { r, err := f(ctx, pathFoo); return &PathsResponse{r}, err }
	}
	ack := func(err error) (any, error) { return &AckResponse{}, err }
	empty := func(err error) (any, error) { return &EmptyResponse{}, err }
	return map[Op]func() (any, error){
		OpIsValidPath:            func() (any, error) { r, err := c.IsValidPath(ctx, pathFoo); return &IsValidPathResponse{r}, err },
		OpQueryReferrers:         foo(c.QueryReferrers),
		OpQueryValidDerivers:     foo(c.QueryValidDerivers),
		OpQueryDerivationOutputs: foo(c.QueryDerivationOutputs),
		OpQueryDerivationOutputNames: func() (any, error) {
			r, err := c.QueryDerivationOutputNames(ctx, pathFoo)
			return &NamesResponse{r}, err
		},
		OpQueryDerivationOutputMap: func() (any, error) {
			r, err := c.QueryDerivationOutputMap(ctx, pathFoo)
			return &QueryDerivationOutputMapResponse{r}, err
		},
		OpQueryDeriver: func() (any, error) { r, err := c.QueryDeriver(ctx, pathFoo); return &OptionalPathResponse{r}, err },
		OpQueryPathFromHashPart: func() (any, error) {
			r, err := c.QueryPathFromHashPart(ctx, pathFoo.Digest())
			return &OptionalPathResponse{r}, err
		},
		OpQueryAllValidPaths: func() (any, error) { r, err := c.QueryAllValidPaths(ctx); return &PathsResponse{r}, err },
		OpQueryValidPaths: func() (any, error) {
			r, err := c.QueryValidPaths(ctx, []storepath.Path{pathFoo, pathBar}, true)
			return &PathsResponse{r}, err
		},
		OpQuerySubstitutablePaths: func() (any, error) {
			r, err := c.QuerySubstitutablePaths(ctx, []storepath.Path{pathFoo, pathBar})
			return &PathsResponse{r}, err
		},
		OpQueryPathInfo: func() (any, error) { r, err := c.QueryPathInfo(ctx, pathFoo); return &QueryPathInfoResponse{r}, err },
		OpQuerySubstitutablePathInfo: func() (any, error) {
			r, err := c.QuerySubstitutablePathInfo(ctx, pathFoo)
			return &QuerySubstitutablePathInfoResponse{r}, err
		},
		OpQuerySubstitutablePathInfos: func() (any, error) {
			r, err := c.QuerySubstitutablePathInfos(ctx, s[OpQuerySubstitutablePathInfos].request.(*QuerySubstitutablePathInfosRequest).Paths)
			return &QuerySubstitutablePathInfosResponse{r}, err
		},
		OpQueryMissing: func() (any, error) { return c.QueryMissing(ctx, targetsFoo) },
		OpQueryRealisation: func() (any, error) {
			r, err := c.QueryRealisation(ctx, idFoo)
			return &QueryRealisationResponse{r}, err
		},
		OpRegisterDrvOutput: func() (any, error) { return empty(c.RegisterDrvOutput(ctx, realisationFoo)) },
		OpEnsurePath:        func() (any, error) { return ack(c.EnsurePath(ctx, pathFoo)) },
		OpAddTempRoot:       func() (any, error) { return ack(c.AddTempRoot(ctx, pathFoo)) },
		OpAddIndirectRoot:   func() (any, error) { return ack(c.AddIndirectRoot(ctx, "/tmp/result")) },
		OpAddPermRoot: func() (any, error) {
			r, err := c.AddPermRoot(ctx, pathFoo, "/tmp/root")
			return &AddPermRootResponse{r}, err
		},
		OpSyncWithGC: func() (any, error) { return ack(c.SyncWithGC(ctx)) },
		OpFindRoots:  func() (any, error) { r, err := c.FindRoots(ctx); return &FindRootsResponse{r}, err },
		OpCollectGarbage: func() (any, error) {
			return c.CollectGarbage(ctx, *s[OpCollectGarbage].request.(*CollectGarbageRequest))
		},
		OpSetOptions:    func() (any, error) { return empty(c.SetOptions(ctx, optionsFoo)) },
		OpOptimiseStore: func() (any, error) { return ack(c.OptimiseStore(ctx)) },
		OpVerifyStore:   func() (any, error) { r, err := c.VerifyStore(ctx, true, false); return &VerifyStoreResponse{r}, err },
		OpAddSignatures: func() (any, error) { return ack(c.AddSignatures(ctx, pathFoo, []string{sigFoo})) },
		OpBuildPaths:    func() (any, error) { return ack(c.BuildPaths(ctx, targetsFoo, BuildRepair)) },
		OpBuildPathsWithResults: func() (any, error) {
			r, err := c.BuildPathsWithResults(ctx, s[OpBuildPathsWithResults].request.(*BuildPathsRequest).Targets, BuildNormal)
			return &BuildPathsWithResultsResponse{r}, err
		},
		OpBuildDerivation: func() (any, error) {
			r, err := c.BuildDerivation(ctx, BuildDerivationRequest{drvFoo, derivationFoo, BuildCheck})
			return &BuildDerivationResponse{*r}, err
		},
		OpSubmitOutput: func() (any, error) {
			return ack(c.SubmitOutput(ctx, SingleDerivedPath{drvFoo, []string{"out", "dev"}}, "out"))
		},
		OpAddToStoreNar: func() (any, error) {
			return empty(c.AddToStoreNar(ctx, AddToStoreNarRequest{validFoo, true, true}, bytes.NewReader(dirNAR)))
		},
		OpAddToStore: func() (any, error) {
			r, err := c.AddToStore(ctx, *s[OpAddToStore].request.(*AddToStoreRequest), bytes.NewReader(dirNAR))
			return addResponse(r), err
		},
		OpAddTextToStore: func() (any, error) {
			r, err := c.AddTextToStore(ctx, *s[OpAddTextToStore].request.(*AddTextToStoreRequest))
			return &PathResponse{r}, err
		},
		OpAddMultipleToStore: func() (any, error) {
			items := testItems()
			return empty(c.AddMultipleToStore(ctx, AddMultipleToStoreRequest{true, true}, uint64(len(items)), slices.Values(items)))
		},
		OpAddBuildLog: func() (any, error) {
			return ack(c.AddBuildLog(ctx, drvFoo, bytes.NewReader(s[OpAddBuildLog].data)))
		},
		OpAddToStoreScanning: func() (any, error) {
			r, err := c.AddToStoreScanning(ctx, *s[OpAddToStoreScanning].request.(*AddToStoreScanningRequest), strings.NewReader("flat"))
			return addResponse(r), err
		},
		OpNarFromPath: func() (any, error) {
			var b bytes.Buffer
			err := c.NarFromPath(ctx, pathFoo, &b)
			if err == nil && !bytes.Equal(b.Bytes(), dirNAR) {
				err = fmt.Errorf("got %d bytes, want %d", b.Len(), len(dirNAR))
			}
			return &EmptyResponse{}, err
		},
	}
}

func addResponse(info *ValidPathInfo) *AddToStoreResponse {
	if info == nil {
		return nil
	}
	return &AddToStoreResponse{*info}
}

// TestOperations calls every method in every protocol against a server of this package.
func TestOperations(t *testing.T) {
	for pipe := range pipes {
		for _, p := range protocols() {
			t.Run(fmt.Sprintf("%s/%s", pipe, p), func(t *testing.T) {
				var logs []LogMessage
				c := connect(t, pipe, p, ServerOptions{Features: AllFeatures, DaemonVersion: "2.34.8", Trust: Trusted},
					func(m LogMessage) { logs = append(logs, m) }, serveSamples)
				if c.Protocol() != p {
					t.Fatalf("negotiated %s", c.Protocol())
				}
				checkInfo(t, c)
				for op, call := range calls(t.Context(), c) {
					logs = nil
					got, err := call()
					if p.Version < op.Info().Since || (op.Info().Status == StatusInSandbox && p.Features != AllFeatures) {
						if !errors.Is(err, ErrUnsupported) {
							t.Errorf("%s: %v", op, err)
						}
						continue
					}
					if err != nil {
						t.Fatalf("%s: %v", op, err)
					}
					checkResponse(t, p, op, got.(Message))
					checkLogs(t, p, op, logs)
				}
			})
		}
	}
}

func checkInfo(t *testing.T, c *Client) {
	t.Helper()
	want := HandshakeInfo{}
	if c.proto.since(33) {
		want.DaemonVersion = "2.34.8"
	}
	if c.proto.since(35) {
		want.Trust = Trusted
	}
	if c.Info() != want {
		t.Errorf("info is %+v, want %+v", c.Info(), want)
	}
}

func checkResponse(t *testing.T, p Protocol, op Op, got Message) {
	t.Helper()
	want := encodeMessage(t, p, samples()[op].response)
	if op == OpAddToStore && !p.since(25) { // the client asks for the rest
		p = v1(25)
		want = encodeMessage(t, p, samples()[op].response)
	}
	if data := encodeMessage(t, p, got); !bytes.Equal(data, want) {
		t.Errorf("%s: got response %+v, want %+v", op, got, samples()[op].response)
	}
}

func checkLogs(t *testing.T, p Protocol, op Op, logs []LogMessage) {
	t.Helper()
	var kinds []LogKind
	for _, m := range logs {
		kinds = append(kinds, m.Kind)
	}
	want := []LogKind{LogStartActivity, LogResult, LogStopActivity, LogNext}
	if !p.since(20) {
		want = []LogKind{LogNext, LogNext}
	}
	if op == OpAddToStore && !p.since(25) { // the client asks for the info, too
		want = append(want, want...)
	}
	if !slices.Equal(kinds, want) {
		t.Errorf("%s: got log messages %v, want %v", op, kinds, want)
		return
	}
	if first := logs[0]; p.since(20) && (first.Text != "building" || first.Activity != ActBuild || first.Level != LevelInfo ||
		!slices.Equal(first.Fields, []Field{StringField("x"), IntField(7)}) || logs[1].Fields[0].Str != "line" || logs[2].ID != first.ID) {
		t.Errorf("%s: got log messages %+v", op, logs)
	}
	if last := logs[len(logs)-1]; last.Text != "done\n" {
		t.Errorf("%s: got log message %+v", op, last)
	}
}

func TestDial(t *testing.T) {
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "no-socket"), ClientOptions{}); err == nil {
		t.Error("a missing socket was dialled")
	}
}
