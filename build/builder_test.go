package build

import (
	"strings"
	"testing"
)

func TestBuild(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		d := l.derive(recipe{name: "hello", script: `echo hello > $out; echo building`})
		res, sink := l.build(d)
		if res.Status != Built || res.ErrorMsg != "" || res.TimesBuilt != 1 {
			t.Fatalf("result %+v\n%s", res, sink.output())
		}
		if got := l.read(d.out("out"), ""); got != "hello\n" {
			t.Errorf("output %q", got)
		}
		if got := sink.output(); got != "building" {
			t.Errorf("log %q", got)
		}
		if id := res.Outputs["out"].ID; !strings.HasPrefix(id, "sha256:") || !strings.HasSuffix(id, "!out") {
			t.Errorf("realisation %q", id)
		}
		if res, _ := l.build(d); res.Status != AlreadyValid {
			t.Errorf("second time: status %d", res.Status)
		}
	})
}

func TestChain(t *testing.T) {
	both(t, func(t *testing.T, l *lab) {
		d := l.derive(recipe{name: "first", script: `mkdir $out; echo 0 > $out/n`})
		for range 5 {
			d = l.derive(recipe{
				name: "next", inputs: []built{d}, env: map[string]string{"prev": l.store.Dir().Join(d.out("out"))},
				script: `mkdir $out; read n < $prev/n; echo $((n + 1)) > $out/n; echo $prev > $out/ref`,
			})
		}
		if res, sink := l.build(d); res.Status != Built {
			t.Fatalf("result %+v\n%s %s", res, sink.output(), sink.logs)
		}
		if got := l.read(d.out("out"), "n"); got != "5\n" {
			t.Errorf("output %q", got)
		}
		info, err := l.store.PathInfo().Get(t.Context(), d.out("out"))
		if err != nil || len(info.References) != 1 || info.Deriver != d.path || !info.Ultimate {
			t.Errorf("info %+v, %v", info, err)
		}
	})
}
