package build

import (
	"time"

	"github.com/tvixd/tvixd/storepath"
)

// Status is how a goal ended, with the numbers of the worker protocol.
type Status uint64

// Statuses.
const (
	Built                  Status = 0
	Substituted            Status = 1
	AlreadyValid           Status = 2
	PermanentFailure       Status = 3
	InputRejected          Status = 4
	OutputRejected         Status = 5
	TransientFailure       Status = 6
	CachedFailure          Status = 7
	TimedOut               Status = 8
	MiscFailure            Status = 9
	DependencyFailed       Status = 10
	LogLimitExceeded       Status = 11
	NotDeterministic       Status = 12
	ResolvesToAlreadyValid Status = 13
	NoSubstituters         Status = 14
)

// OK reports whether the outputs are there.
func (s Status) OK() bool {
	return s == Built || s == Substituted || s == AlreadyValid || s == ResolvesToAlreadyValid
}

// Mode is what a request wants of its targets.
type Mode uint8

// Modes, with the numbers of the worker protocol.
const (
	Normal Mode = 0 // make what is not valid
	Repair Mode = 1 // make again what is damaged
	Check  Mode = 2 // make again what is valid, and compare
)

// Target is something to make valid: a plain path, or outputs of a derivation.
type Target struct {
	Path    storepath.Path // a path as it is; zero when Drv is set
	Drv     storepath.Path
	Outputs []string // of Drv; none means all
}

// Result is what became of a target.
type Result struct {
	Target   Target
	Status   Status
	ErrorMsg string
	Outputs  map[string]Realised // of a derivation that succeeded, by name
	Start    time.Time           // zero when nothing was run
	Stop     time.Time

	TimesBuilt       uint64
	NonDeterministic bool
	CPUUser          time.Duration // of a builder that ran
	CPUSystem        time.Duration

	// ExitStatus is what a client that waits for its targets ends with when one
	// of them failed, as Nix counts it: 100 with 1 added when something timed
	// out, 2 for a hash mismatch of a fixed output, and 8 (without the 4 in 100,
	// if nothing else failed) for an output that is not deterministic; 1 when
	// there was a failure of another kind only. It is of all that the request
	// came to, not of this target, and zero when nothing failed.
	ExitStatus uint32

	quiet bool // nix-daemon does not show ErrorMsg
}

// Realised is a valid output.
type Realised struct {
	ID   string // "sha256:<hex>!<output>", the hash being the derivation's modulo
	Path storepath.Path
}
