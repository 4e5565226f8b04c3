package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	wp "github.com/tvixd/tvixd/worker-protocol"
)

// setOptions changes the settings of this connection. Nothing that a client may not set is an
// error: every client sends whatever its user has configured.
func setOptions(_ context.Context, s *session, q *wp.SetOptionsRequest) (*wp.EmptyResponse, error) {
	c := s.config
	c.KeepFailed = q.KeepFailed
	c.KeepGoing = q.KeepGoing
	c.Fallback = q.TryFallback
	c.MaxJobs = uint64(q.MaxBuildJobs)
	c.MaxSilentTime = time.Duration(q.MaxSilentTime) * time.Second
	c.Cores = uint64(q.BuildCores)
	c.Substitute = q.UseSubstitutes
	s.conn.SetVerbosity(q.Verbosity)
	for _, name := range slices.Sorted(maps.Keys(q.Overrides)) {
		s.override(name, q.Overrides[name])
	}
	return &wp.EmptyResponse{}, nil
}

// override sets one setting as far as the client may.
func (s *session) override(name, value string) {
	switch canonical := s.config.Canonical(name); {
	case name == "ssh-auth-sock" || canonical == "experimental-features":
		// They are the client's own.
	case canonical == "plugin-files":
		s.warn("Ignoring the client-specified plugin-files.\n" +
			"The client specifying plugins to the daemon never made sense, and was removed in Nix >=2.14.")
	case s.trusted, untrustedMaySet[canonical], canonical == "builders" && value == "":
		s.set(name, value)
	case canonical == "substituters":
		s.config.Substituters = s.knownSubstituters(value)
	default:
		text := fmt.Sprintf("ignoring the client-specified setting '%s', because it is a restricted setting and you are not a trusted user", name)
		if s.proto.Version >= warnsOfRestricted {
			s.warn(text)
		} else {
			s.conn.Log(wp.LevelDebug, text)
		}
	}
}

// warnsOfRestricted is the version from which on nix-daemon tells more than debuggers of settings
// that it ignores. Every untrusted client of an older Nix would be warned of something each time.
var warnsOfRestricted = wp.MakeVersion(1, 37)

// untrustedMaySet are settings by which a client can harm nobody but itself.
var untrustedMaySet = map[string]bool{
	"timeout":             true,
	"max-silent-time":     true,
	"build-poll-interval": true,
	"connect-timeout":     true,
}

func (s *session) set(name, value string) {
	// A name that is not known is one of a newer client.
	_, err := s.config.Set(name, value)
	if err != nil {
		s.warn(err.Error())
		return
	}
	for _, warning := range s.config.TakeWarnings() {
		s.warn(warning)
	}
	if s.config.Canonical(strings.TrimPrefix(name, "extra-")) == "trusted-public-keys" {
		var bad []string
		s.keys, bad = s.d.keyring(s.config)
		for _, key := range bad {
			s.warn("ignoring '" + key + "' in 'trusted-public-keys': it is no public key")
		}
	}
}

// knownSubstituters keeps of a client's wishes what nix.conf has already.
func (s *session) knownSubstituters(value string) []string {
	config := s.d.opts.Config
	known := append(slices.Clone(config.TrustedSubstituters), config.Substituters...)
	var kept []string
	for _, url := range strings.Fields(value) {
		switch {
		case slices.Contains(known, url):
			kept = append(kept, url)
		case slices.Contains(known, url+"/"):
			kept = append(kept, url+"/")
		default:
			s.warn(fmt.Sprintf("ignoring untrusted substituter '%s', you are not a trusted user.\n"+
				"Run `man nix.conf` for more information on the `substituters` configuration option.", url))
		}
	}
	return kept
}

// warn sends a warning in the colours that Nix gives it; clients take them out where there is no
// terminal.
func (s *session) warn(text string) {
	s.conn.Log(wp.LevelWarn, "\x1b[35;1mwarning:\x1b[0m "+text)
}
