package daemon

import (
	"slices"

	"github.com/tvixd/tvixd/daemon/nixconf"
)

// ignored are settings of Nix that have no effect here although somebody who changes them
// expects one. Those whose promise is kept whatever they say, such as auto-optimise-store and
// fsync-store-paths, are not among them.
var ignored = []string{
	"always-allow-substitutes", "auto-allocate-uids", "build-hook", "builders", "builders-use-substitutes",
	"external-builders", "hashed-mirrors", "json-log-path", "min-free", "post-build-hook", "pre-build-hook",
	"run-diff-hook", "substituters", "trusted-substituters", "use-cgroups", "use-roots-daemon",
	"warn-large-path-threshold",
}

// IgnoredSettings lists those settings that were changed from their defaults without effect.
func IgnoredSettings(c *nixconf.Config) []string {
	var names []string
	for _, name := range c.Changed() {
		value, _ := c.Lookup(name)
		// An empty value or false asks for nothing.
		if slices.Contains(ignored, name) && value != "" && value != "false" {
			names = append(names, name)
		}
	}
	return names
}
