package daemon

import (
	"fmt"
	"math"

	"github.com/tvixd/tvixd/build"
	"github.com/tvixd/tvixd/daemon/nixconf"
	wp "github.com/tvixd/tvixd/worker-protocol"
)

// sink shows a client what is done for it. The connection takes care that nobody waits long for
// a client that does not read.
type sink struct{ conn *wp.ServerConn }

var _ build.Sink = sink{}

func (s sink) StartActivity(level int, typ uint64, text string, fields []any, parent uint64) uint64 {
	id := wp.NewActivityID()
	s.conn.StartActivity(id, wp.Verbosity(level), wp.ActivityType(typ), text, fieldsToWire(fields), wp.ActivityID(parent))
	return uint64(id)
}

func (s sink) StopActivity(id uint64) { s.conn.StopActivity(wp.ActivityID(id)) }

func (s sink) Result(id, typ uint64, fields []any) {
	s.conn.Result(wp.ActivityID(id), wp.ResultType(typ), fieldsToWire(fields))
}

func (s sink) Log(level int, text string) { s.conn.Log(wp.Verbosity(level), text) }

func fieldsToWire(fields []any) []wp.Field {
	if len(fields) == 0 {
		return nil
	}
	out := make([]wp.Field, len(fields))
	for i, f := range fields {
		switch f := f.(type) {
		case uint64:
			out[i] = wp.IntField(f)
		case string:
			out[i] = wp.StringField(f)
		default:
			out[i] = wp.StringField(fmt.Sprint(f))
		}
	}
	return out
}

// buildSettings are the settings of a connection in the builder's terms.
func buildSettings(c *nixconf.Config) build.Settings {
	s := build.Settings{
		System:         c.System,
		ExtraPlatforms: c.ExtraPlatforms,
		SystemFeatures: c.SystemFeatures,

		MaxJobs:       clamp(c.MaxJobs),
		Cores:         clamp(c.Cores),
		Timeout:       c.Timeout,
		MaxSilentTime: c.MaxSilentTime,
		MaxLogSize:    c.MaxBuildLogSize,
		LogLines:      clamp(c.LogLines),

		KeepGoing:     c.KeepGoing,
		KeepFailed:    c.KeepFailed,
		Fallback:      c.Fallback,
		UseSubstitute: c.Substitute,

		KeepLog:     c.KeepBuildLog,
		CompressLog: c.CompressBuildLog,

		SandboxBuildDir: c.SandboxBuildDir,
		SandboxShmSize:  c.SandboxDevShmSize,
		BuildDir:        c.BuildDir,
		BuildUsersGroup: c.BuildUsersGroup,

		FilterSyscalls:     c.FilterSyscalls,
		AllowNewPrivileges: c.AllowNewPrivileges,
		ImpersonateLinux26: c.ImpersonateLinux26,

		ImpureHostDeps: c.AllowedImpureHostDeps,
		ImpureEnv:      c.ImpureEnv,
	}
	switch c.Sandbox {
	case nixconf.SandboxOn:
		s.Sandbox = build.SandboxOn
	case nixconf.SandboxRelaxed:
		s.Sandbox = build.SandboxRelaxed
	default:
		s.Sandbox = build.SandboxOff
	}
	for _, p := range c.SandboxPaths {
		s.SandboxPaths = append(s.SandboxPaths, build.SandboxPath(p))
	}
	return s
}

func clamp(n uint64) int { return int(min(n, math.MaxInt32)) }
