package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/daemon/nixconf"
)

// ignored are settings of Nix that have no effect here although somebody who changes them
// expects one. Those whose promise is kept whatever they say, such as auto-optimise-store and
// fsync-store-paths, are not among them.
var ignored = []string{
	"always-allow-substitutes", "auto-allocate-uids", "build-hook", "builders", "builders-use-substitutes",
	"external-builders", "hashed-mirrors", "json-log-path", "min-free", "post-build-hook", "pre-build-hook",
	"run-diff-hook", "trusted-substituters", "use-cgroups", "use-roots-daemon",
	"warn-large-path-threshold",
}

// unsupportedFeatures are experimental features that nix.conf may switch on in vain.
var unsupportedFeatures = []string{"ca-derivations", "dynamic-derivations", "impure-derivations", "recursive-nix"}

// Shortcomings are sentences about what a user who knows Nix expects with this configuration, its
// defaults included, and does not get yet.
func Shortcomings(c *nixconf.Config) []string {
	var list []string
	if c.Substitute && len(c.Substituters) > 0 {
		list = append(list, fmt.Sprintf("nothing is substituted yet: no substituter is asked (%s); 'substituters =' in nix.conf hides this",
			strings.Join(c.Substituters, " ")))
	}
	for _, name := range unsupportedFeatures {
		if c.HasFeature(name) {
			list = append(list, fmt.Sprintf("the experimental feature '%s', which nix.conf switches on, is not supported yet", name))
		}
	}
	return list
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
