package build

import (
	"strings"
	"time"
)

// SandboxMode says which builds are isolated.
type SandboxMode uint8

const (
	// SandboxOn isolates every build.
	SandboxOn SandboxMode = iota
	// SandboxRelaxed lets fixed-output derivations and those with __noChroot out.
	SandboxRelaxed
	// SandboxOff isolates nothing.
	SandboxOff
)

// SandboxPath is a path of the host that builders may see.
type SandboxPath struct {
	Target   string // where the builder sees it
	Source   string // where it is on the host
	Optional bool   // left out when the source does not exist
}

// ParseSandboxPath reads an element of the setting sandbox-paths: "target",
// "target=source", either with a "?" at the end when it may be missing.
func ParseSandboxPath(s string) SandboxPath {
	s, optional := strings.CutSuffix(s, "?")
	target, source, mapped := strings.Cut(s, "=")
	if !mapped {
		source = target
	}
	return SandboxPath{Target: target, Source: source, Optional: optional}
}

// Settings are the settings of a request: the daemon's own with the client's
// overrides. A job runs under those of the request that asked for it first.
type Settings struct {
	System         string   // "x86_64-linux": what this machine builds
	ExtraPlatforms []string // what it builds besides
	SystemFeatures []string // what a derivation may require

	// MaxJobs is how many builds may run in all when one of this request is
	// started. With 0 nothing is built here.
	MaxJobs int
	// Cores goes to the builder as NIX_BUILD_CORES; 0 means every core.
	Cores int

	Timeout       time.Duration // of a whole build; 0 is none
	MaxSilentTime time.Duration // between two pieces of output; 0 is none
	MaxLogSize    uint64        // bytes of output; 0 is no limit
	LogLines      int           // last lines that a failure repeats

	KeepGoing     bool // build what does not depend on a failure
	KeepFailed    bool // leave the build folder of a failure
	Fallback      bool // build what could not be substituted
	UseSubstitute bool // ask the Substituter

	KeepLog     bool // store logs
	CompressLog bool // as bzip2

	Sandbox         SandboxMode
	SandboxPaths    []SandboxPath
	SandboxBuildDir string // build folder as the builder sees it, "/build"
	SandboxShmSize  string // size of /dev/shm as tmpfs takes it, "50%"

	// BuildDir is where build folders are made. "" is a folder below ScratchDir.
	BuildDir string
	// BuildUsersGroup names the group whose members run the builders. "" runs
	// isolated builds under a fixed unprivileged uid and others as the daemon.
	BuildUsersGroup string

	FilterSyscalls     bool // seccomp filter against setuid bits and attributes
	AllowNewPrivileges bool // let builders run setuid programs
	ImpersonateLinux26 bool

	// ImpureHostDeps are prefixes of which a derivation may ask for paths.
	ImpureHostDeps []string
	// ImpureEnv takes the place of the daemon's environment for impureEnvVars.
	ImpureEnv map[string]string
}

// DefaultSettings are Nix's, for a machine of the given system.
func DefaultSettings(system string) Settings {
	return Settings{
		System:          system,
		SystemFeatures:  []string{"benchmark", "big-parallel", "nixos-test", "uid-range"},
		MaxJobs:         1,
		LogLines:        10,
		UseSubstitute:   true,
		KeepLog:         true,
		CompressLog:     true,
		SandboxBuildDir: "/build",
		SandboxShmSize:  "50%",
		FilterSyscalls:  true,
	}
}
