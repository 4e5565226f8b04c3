// Package nixconf reads nix.conf: its grammar, its include lines, and every setting that
// concerns a store daemon, with the names, aliases, types and defaults that Nix gives them.
//
// A file is lines of
//
//	name = value          # comment
//	extra-name = value    # appends to a list
//	include path          # relative to the including file; must exist
//	!include path         # may be missing
//
// Settings that only a client's evaluator uses are known by name, so that one file can serve
// clients and daemon, and are otherwise left alone.
package nixconf

import "time"

// Settings are the values of one daemon or, after the client's own wishes were laid over
// them, of one connection. It is a plain value: a copy is independent of its origin as long as
// slices and maps in it are replaced and never written to, which is what Set does.
// Sizes are bytes.
type Settings struct {
	// Who may connect and what is believed.
	TrustedUsers        []string
	AllowedUsers        []string
	TrustedPublicKeys   []string
	SecretKeyFiles      []string
	RequireSigs         bool
	TrustedSubstituters []string

	// Builds.
	MaxJobs                uint64
	Cores                  uint64 // 0: all of them
	Timeout                time.Duration
	MaxSilentTime          time.Duration
	MaxBuildLogSize        uint64 // 0: no limit
	KeepFailed             bool
	KeepGoing              bool
	Fallback               bool
	LogLines               uint64
	KeepBuildLog           bool
	CompressBuildLog       bool
	System                 string
	ExtraPlatforms         []string
	SystemFeatures         []string
	BuildDir               string // "": the default folder
	BuildUsersGroup        string // "": none
	AutoAllocateUids       bool
	StartID                uint64
	IDCount                uint64
	UseCgroups             bool
	ImpersonateLinux26     bool
	RequireDropSuppGroups  bool
	IgnoredACLs            []string
	ImpureEnv              map[string]string
	AllowedImpureHostDeps  []string
	HashedMirrors          []string
	ExternalBuilders       string // JSON
	BuildPollInterval      time.Duration
	WarnLargePathThreshold uint64

	// The sandbox.
	Sandbox            SandboxMode
	SandboxPaths       []SandboxPath
	SandboxFallback    bool
	SandboxBuildDir    string
	SandboxDevShmSize  string
	FilterSyscalls     bool
	AllowNewPrivileges bool

	// Hooks and remote builders.
	Builders              string
	BuildHook             []string
	BuildHookKillTimeout  time.Duration
	BuildersUseSubstitute bool
	PreBuildHook          string
	PostBuildHook         string
	DiffHook              string
	RunDiffHook           bool

	// Substitution and downloads.
	Substitute             bool
	Substituters           []string
	AlwaysAllowSubstitutes bool
	MaxSubstitutionJobs    uint64
	NarinfoNegativeTTL     time.Duration
	NarinfoPositiveTTL     time.Duration
	NarinfoMetaTTL         time.Duration
	HTTP2                  bool
	HTTP3                  bool
	HTTPConnections        uint64
	UserAgentSuffix        string
	ConnectTimeout         time.Duration
	StalledDownloadTimeout time.Duration
	DownloadAttempts       uint64
	RetryDelay             time.Duration
	RetryDelayRateLimited  time.Duration
	RetryMaxDelay          time.Duration
	RetryJitter            bool
	DownloadBufferSize     uint64
	DownloadSpeed          uint64 // KiB/s, 0: no limit
	NetrcFile              string
	SSLCertFile            string

	// Collection and durability.
	KeepOutputs           bool
	KeepDerivations       bool
	MinFree               uint64
	MaxFree               uint64
	MinFreeCheckInterval  time.Duration
	GCReservedSpace       uint64
	IgnoreGCDeleteFailure bool
	UseRootsDaemon        bool
	FsyncMetadata         bool
	FsyncStorePaths       bool
	SyncBeforeRegistering bool
	UseSQLiteWAL          bool
	AutoOptimiseStore     bool
	NarBufferSize         uint64
	AllowSymlinkedStore   bool
	PreallocateContents   bool

	// Everything else.
	ExperimentalFeatures []string
	JSONLogPath          string
	ShowTrace            bool
	PluginFiles          []string
}

// SandboxMode says whether builders are isolated.
type SandboxMode uint8

// The modes of the setting sandbox.
const (
	SandboxOff SandboxMode = iota
	SandboxRelaxed
	SandboxOn
)

func (m SandboxMode) String() string {
	switch m {
	case SandboxOn:
		return "true"
	case SandboxRelaxed:
		return "relaxed"
	default:
		return "false"
	}
}

// SandboxPath is a path of the host that a sandboxed build sees as Target.
type SandboxPath struct {
	Target   string
	Source   string
	Optional bool // left out silently where Source is missing
}

func (p SandboxPath) String() string {
	s := p.Target
	if p.Source != p.Target {
		s += "=" + p.Source
	}
	if p.Optional {
		s += "?"
	}
	return s
}

// HasFeature reports whether an experimental feature is switched on.
func (s *Settings) HasFeature(name string) bool {
	for _, f := range s.ExperimentalFeatures {
		if f == name {
			return true
		}
	}
	return false
}
