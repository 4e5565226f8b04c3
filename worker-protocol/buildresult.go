package workerprotocol

import (
	"fmt"
	"time"
)

// BuildStatus tells how a build ended.
type BuildStatus uint8

// The ways in which a build ends, with their numbers on the wire.
const (
	BuildBuilt BuildStatus = iota
	BuildSubstituted
	BuildAlreadyValid
	BuildPermanentFailure
	BuildInputRejected
	BuildOutputRejected
	BuildTransientFailure
	BuildCachedFailure // no longer used
	BuildTimedOut
	BuildMiscFailure
	BuildDependencyFailed
	BuildLogLimitExceeded
	BuildNotDeterministic
	BuildResolvesToAlreadyValid
	BuildNoSubstituters
	buildStatuses
)

var buildStatusNames = [buildStatuses]string{
	"Built", "Substituted", "AlreadyValid", "PermanentFailure", "InputRejected", "OutputRejected",
	"TransientFailure", "CachedFailure", "TimedOut", "MiscFailure", "DependencyFailed",
	"LogLimitExceeded", "NotDeterministic", "ResolvesToAlreadyValid", "NoSubstituters",
}

// String is the status's name in Nix.
func (s BuildStatus) String() string {
	if s < buildStatuses {
		return buildStatusNames[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Success reports whether the outputs are valid now.
func (s BuildStatus) Success() bool {
	switch s {
	case BuildBuilt, BuildSubstituted, BuildAlreadyValid, BuildResolvesToAlreadyValid:
		return true
	}
	return false
}

// BuildResult tells how a build went. Old clients get the first fields only.
type BuildResult struct {
	Status   BuildStatus
	ErrorMsg string

	// Since 1.29. TimesBuilt is how often the builder ran, Start and Stop have a resolution of a
	// second.
	TimesBuilt       uint32
	NonDeterministic bool
	Start, Stop      time.Time

	// Since 1.37, in microseconds; nil is not known.
	CPUUser, CPUSystem *time.Duration

	// BuiltOutputs has the outputs by name, since 1.28.
	BuiltOutputs map[string]Realisation
}

func (b *BuildResult) code(c *coder) {
	enum(c, "build status", &b.Status, buildStatuses)
	c.text("error message", &b.ErrorMsg)
	if c.since(29) {
		c.uint32("times built", &b.TimesBuilt)
		c.bool("non-determinism flag", &b.NonDeterministic)
		c.seconds("start time", &b.Start)
		c.seconds("stop time", &b.Stop)
	}
	if c.since(37) {
		c.microseconds("user CPU time", &b.CPUUser)
		c.microseconds("system CPU time", &b.CPUSystem)
	}
	if c.since(28) {
		c.builtOutputs(&b.BuiltOutputs)
	}
}

// maxMicroseconds is what a time.Duration can hold.
const maxMicroseconds = uint64(1<<63-1) / 1000

// microseconds moves a duration that may be missing.
func (c *coder) microseconds(what string, v **time.Duration) {
	present := c.optional(what, *v != nil)
	if !present {
		if c.reading() {
			*v = nil
		}
		return
	}
	var n uint64
	if !c.reading() {
		n = uint64((*v).Microseconds())
	}
	c.uint64(what, &n)
	if !c.reading() {
		return
	}
	if n > maxMicroseconds {
		c.r.reject(fmt.Errorf("%s of %d microseconds is out of range", what, n))
		n = 0
	}
	d := time.Duration(n) * time.Microsecond
	*v = &d
}

// KeyedBuildResult is a result with what was asked for.
type KeyedBuildResult struct {
	Path DerivedPath
	BuildResult
}

func (k *KeyedBuildResult) check(p Protocol) error { return k.Path.check(p) }

func (k *KeyedBuildResult) code(c *coder) {
	k.Path.code(c)
	k.BuildResult.code(c)
}
