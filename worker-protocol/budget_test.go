package workerprotocol

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/storepath"
)

func TestHold(t *testing.T) {
	b := NewBudget(100)
	idle := 0
	b.OnIdle(func() { idle++ })
	one, other := b.Hold(), b.Hold()
	for _, step := range []struct {
		what string
		do   func() error
		err  error
		used int64
	}{
		{"what is free", func() error { return one.Take(FreeBytes) }, nil, 0},
		{"all", func() error { return one.Take(100) }, nil, 100},
		{"one more", func() error { return one.Take(1) }, ErrBusy, 100},
		{"what is free to others", func() error { return other.Take(FreeBytes) }, nil, 100},
		{"one more of others", func() error { return other.Take(1) }, ErrBusy, 100},
		{"give", func() error { one.Give(10); return nil }, nil, 90},
		{"what was given", func() error { return other.Take(10) }, nil, 100},
		{"release", func() error { one.Release(); return nil }, nil, 10},
		{"give more than taken", func() error { other.Give(1 << 40); return nil }, nil, 0},
		{"close", func() error { _ = one.Take(FreeBytes + 5); one.Close(); return nil }, nil, 0},
		{"after close", func() error { return one.Take(1) }, ErrUnusable, 0},
	} {
		if err := step.do(); !errors.Is(err, step.err) || b.Used() != step.used {
			t.Errorf("%s: %v with %d used, want %v with %d", step.what, err, b.Used(), step.err, step.used)
		}
	}
	if idle != 1 { // what close gave back was little
		t.Errorf("the budget was idle %d times, want 1", idle)
	}
	var unbounded *Budget
	if err := unbounded.Hold().Take(1 << 60); err != nil {
		t.Errorf("without a budget: %v", err)
	}
}

// TestFieldLimits checks which strings of a request may be long.
func TestFieldLimits(t *testing.T) {
	const small, large = 64 << 10, 16 << 20
	drv := func(change func(*BasicDerivation)) *BuildDerivationRequest {
		d := BasicDerivation{Outputs: map[string]BasicOutput{"out": {}}, Env: map[string]string{"k": "v"}}
		change(&d)
		return &BuildDerivationRequest{Path: testPath(t), Derivation: d}
	}
	for name, c := range map[string]struct {
		limit int
		make  func(s string) Message
	}{
		"name":  {small, func(s string) Message { return &AddTextToStoreRequest{Name: s} }},
		"text":  {large, func(s string) Message { return &AddTextToStoreRequest{Text: s} }},
		"link":  {small, func(s string) Message { return &AddIndirectRootRequest{Link: s} }},
		"root":  {small, func(s string) Message { return &AddPermRootRequest{Path: testPath(t), Root: s} }},
		"names": {small, func(s string) Message { return &NamesResponse{Names: []string{s}} }},
		"signature": {small, func(s string) Message {
			return &AddSignaturesRequest{Path: testPath(t), Signatures: []string{s}}
		}},
		"builder":  {small, func(s string) Message { return drv(func(d *BasicDerivation) { d.Builder = s }) }},
		"argument": {large, func(s string) Message { return drv(func(d *BasicDerivation) { d.Args = []string{s} }) }},
		"value":    {large, func(s string) Message { return drv(func(d *BasicDerivation) { d.Env["k"] = s }) }},
		"key":      {small, func(s string) Message { return drv(func(d *BasicDerivation) { d.Env[s] = "" }) }},
	} {
		for _, over := range []int{0, 1} {
			m := c.make(strings.Repeat("x", c.limit+over))
			pr, pw := io.Pipe()
			go func() {
				w := NewWriter(pw)
				_ = WriteMessage(w, Protocol{Version: MaxVersion}, storepath.DefaultDir, m)
				_ = w.Flush()
			}()
			err := ReadMessage(NewReader(pr, Limits{}), Protocol{Version: MaxVersion}, storepath.DefaultDir, m)
			pr.Close()
			if (over == 1) != errors.Is(err, ErrProtocol) || over == 0 && err != nil {
				t.Errorf("%s of %d bytes: %v", name, c.limit+over, err)
			}
		}
	}
}

func testPath(t *testing.T) storepath.Path {
	t.Helper()
	p, err := storepath.New([storepath.DigestSize]byte{}, "a")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSpentBudget checks that requests which find no memory are read to their end and refused, and
// that their connections go on.
func TestSpentBudget(t *testing.T) {
	budget := NewBudget(4 << 20)
	text := strings.Repeat("x", 3<<20)
	big := &AddTextToStoreRequest{Name: "big", Text: text}
	many := &AddTextToStoreRequest{Name: "many", References: make([]storepath.Path, 100_000)}
	for i := range many.References {
		many.References[i] = testPath(t)
	}
	dial := func() (*ServerConn, *Writer, func() error) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close() })
		accepted := make(chan *ServerConn, 1)
		go func() {
			c, err := Accept(theirs, ServerOptions{Limits: Limits{Budget: budget}})
			if err != nil {
				t.Errorf("accept: %v", err)
			}
			accepted <- c
		}()
		client, err := NewClient(t.Context(), ours, ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		conn := <-accepted
		t.Cleanup(func() { conn.Close() })
		return conn, client.w, func() error { return client.processLog(nil) }
	}
	send := func(c *ServerConn, w *Writer, m Message) error {
		t.Helper()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			w.Uint64(uint64(OpAddTextToStore))
			_ = WriteMessage(w, c.Protocol(), storepath.DefaultDir, m)
			_ = w.Flush()
		}()
		if op, err := c.ReadOp(); err != nil || op != OpAddTextToStore {
			t.Fatalf("operation %v, %v", op, err)
		}
		var got AddTextToStoreRequest
		err := c.ReadRequest(&got)
		<-sent
		if err == nil && got.Text != m.(*AddTextToStoreRequest).Text {
			t.Error("the text is another one")
		}
		return err
	}

	first, firstClient, _ := dial()
	if err := send(first, firstClient, big); err != nil {
		t.Fatal(err)
	}
	if used := budget.Used(); used != int64(len(text)+len("big")-FreeBytes) {
		t.Errorf("%d bytes are taken for a text of %d", used, len(text))
	}
	second, secondClient, answer := dial()
	for _, m := range []*AddTextToStoreRequest{big, many} {
		err := send(second, secondClient, m)
		if !errors.Is(err, ErrBusy) {
			t.Fatalf("%s: %v, want ErrBusy", m.Name, err)
		}
		told := make(chan error, 1)
		go func() { told <- answer() }()
		if err := second.Fail(err); err != nil {
			t.Fatal(err)
		}
		if err := <-told; err == nil || !strings.Contains(err.Error(), "the memory for the requests of all clients is used up; try again later") {
			t.Errorf("the client is told: %v", err)
		}
	}
	small := &AddTextToStoreRequest{Name: "small", Text: strings.Repeat("x", FreeBytes/2)}
	if err := send(second, secondClient, small); err != nil {
		t.Errorf("a small request: %v", err)
	}
	first.Close()
	second.Close()
	if used := budget.Used(); used != 0 {
		t.Errorf("%d bytes are still taken when all have left", used)
	}
}
