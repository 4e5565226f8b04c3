package daemon

import (
	"slices"
	"strings"
	"testing"

	"github.com/tvixd/tvixd/daemon/nixconf"
)

func TestShortcomings(t *testing.T) {
	c := nixconf.New(nixconf.Host{ConfDir: "/etc/nix"})
	if got := Shortcomings(c); len(got) != 1 || !strings.Contains(got[0], "https://cache.nixos.org") {
		t.Errorf("the defaults: %q", got)
	}
	if err := c.Apply("substituters =\nexperimental-features = nix-command ca-derivations", "f"); err != nil {
		t.Fatal(err)
	}
	if got := Shortcomings(c); len(got) != 1 || !strings.Contains(got[0], "'ca-derivations'") {
		t.Errorf("no substituters, a feature: %q", got)
	}
	if err := c.Apply("substituters = https://x\nsubstitute = false\nexperimental-features =", "f"); err != nil {
		t.Fatal(err)
	}
	if got := Shortcomings(c); got != nil {
		t.Errorf("no substitution wanted: %q", got)
	}
}

func TestIgnoredSettings(t *testing.T) {
	c := nixconf.New(nixconf.Host{ConfDir: "/etc/nix"})
	if got := IgnoredSettings(c); got != nil {
		t.Errorf("the defaults: %q", got)
	}
	if err := c.Apply("substituters =\nbuilders = ssh://x\ncores = 4\nmin-free = 1G\nauto-optimise-store = true", "f"); err != nil {
		t.Fatal(err)
	}
	if got := IgnoredSettings(c); !slices.Equal(got, []string{"builders", "min-free"}) {
		t.Errorf("got %q", got)
	}
	for _, name := range ignored {
		if _, ok := c.Lookup(name); !ok {
			t.Errorf("no setting %s", name)
		}
	}
}
