package build

// Sink is where a session tells its client what happens, in the terms of Nix's
// logger. Its methods are called from several goroutines and must return soon:
// a client that does not read must not hold up a build that others wait for.
type Sink interface {
	// StartActivity begins an activity and returns the number by which the
	// other methods name it. Fields are uint64 or string. Parent may be 0.
	StartActivity(level int, typ uint64, text string, fields []any, parent uint64) (id uint64)
	// StopActivity ends an activity.
	StopActivity(id uint64)
	// Result adds something to an activity: a log line, a phase, progress.
	Result(id, typ uint64, fields []any)
	// Log is a message that belongs to no activity.
	Log(level int, text string)
}

// Levels of Sink messages and activities.
const (
	LevelError = iota
	LevelWarn
	LevelNotice
	LevelInfo
	LevelTalkative
	LevelChatty
	LevelDebug
	LevelVomit
)

// Types of activities.
const (
	ActCopyPath      = 100
	ActFileTransfer  = 101
	ActRealise       = 102
	ActCopyPaths     = 103
	ActBuilds        = 104
	ActBuild         = 105
	ActSubstitute    = 108
	ActPostBuildHook = 110
	ActBuildWaiting  = 111
)

// Types of results.
const (
	ResBuildLogLine     = 101
	ResUntrustedPath    = 102
	ResCorruptedPath    = 103
	ResSetPhase         = 104
	ResProgress         = 105
	ResSetExpected      = 106
	ResPostBuildLogLine = 107
)

// Discard is a Sink that drops everything.
var Discard Sink = discard{}

type discard struct{}

func (discard) StartActivity(int, uint64, string, []any, uint64) uint64 { return 0 }
func (discard) StopActivity(uint64)                                     {}
func (discard) Result(uint64, uint64, []any)                            {}
func (discard) Log(int, string)                                         {}
