package daemon

import (
	"slices"
	"testing"

	"github.com/tvixd/tvixd/daemon/nixconf"
)

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
