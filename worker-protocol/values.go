package workerprotocol

import "math"

// BuildMode says what a build does with outputs that are valid already.
type BuildMode uint8

const (
	// BuildNormal builds what is missing.
	BuildNormal BuildMode = iota
	// BuildRepair replaces outputs that are damaged.
	BuildRepair
	// BuildCheck builds again and compares.
	BuildCheck
	buildModes
)

// GCAction says what a collection does.
type GCAction uint8

const (
	// GCReturnLive lists what is reachable from a root.
	GCReturnLive GCAction = iota
	// GCReturnDead lists what is not.
	GCReturnDead
	// GCDeleteDead deletes what is not reachable.
	GCDeleteDead
	// GCDeleteSpecific deletes given paths, and fails if one of them is reachable.
	GCDeleteSpecific
	gcActions
)

// GCNoLimit as MaxFreed is no limit.
const GCNoLimit uint64 = math.MaxUint64

// Trust is what a daemon tells of its trust in the client, from version 1.35 on.
type Trust uint8

const (
	// TrustUnknown is told by daemons that cannot tell, and assumed of old ones.
	TrustUnknown Trust = iota
	// Trusted clients may change settings, import unsigned paths and repair.
	Trusted
	// NotTrusted clients may not.
	NotTrusted
	trusts
)

// Verbosity is the importance of a log message; a client sees those up to the level it asked for.
type Verbosity uint8

// The levels, from the most important on.
const (
	LevelError Verbosity = iota
	LevelWarn
	LevelNotice
	LevelInfo
	LevelTalkative
	LevelChatty
	LevelDebug
	LevelVomit
)

// ActivityID names an activity. Clients mix the activities of all their connections and of their
// own, so it has to be unique; see NewActivityID.
type ActivityID uint64

// ActivityType says what an activity does, and with it what its fields mean.
type ActivityType uint32

// The types of activities, with their fields.
const (
	ActUnknown       ActivityType = 0
	ActCopyPath      ActivityType = 100 // path, source store, destination store
	ActFileTransfer  ActivityType = 101 // URL
	ActRealise       ActivityType = 102
	ActCopyPaths     ActivityType = 103
	ActBuilds        ActivityType = 104
	ActBuild         ActivityType = 105 // derivation, machine, round, number of rounds
	ActOptimiseStore ActivityType = 106
	ActVerifyPaths   ActivityType = 107
	ActSubstitute    ActivityType = 108 // path, substituter
	ActQueryPathInfo ActivityType = 109 // path, substituter
	ActPostBuildHook ActivityType = 110 // derivation
	ActBuildWaiting  ActivityType = 111
	ActFetchTree     ActivityType = 112
	ActFetchToStore  ActivityType = 113 // source path, whether it is only hashed
)

// ResultType says what the fields of a result mean.
type ResultType uint32

// The types of results, with their fields.
const (
	ResFileLinked       ResultType = 100 // size, blocks
	ResBuildLogLine     ResultType = 101 // line
	ResUntrustedPath    ResultType = 102 // path
	ResCorruptedPath    ResultType = 103 // path
	ResSetPhase         ResultType = 104 // phase
	ResProgress         ResultType = 105 // done, expected, running, failed
	ResSetExpected      ResultType = 106 // activity type, number
	ResPostBuildLogLine ResultType = 107 // line
	ResFetchStatus      ResultType = 108 // text
	ResFetchToStore     ResultType = 109 // store path
)

// The messages of the server while an operation runs.
const (
	stderrNext          uint64 = 0x6f6c6d67
	stderrRead          uint64 = 0x64617461
	stderrWrite         uint64 = 0x64617416
	stderrLast          uint64 = 0x616c7473
	stderrError         uint64 = 0x63787470
	stderrStartActivity uint64 = 0x53545254
	stderrStopActivity  uint64 = 0x53544f50
	stderrResult        uint64 = 0x52534c54
)

// The first words of the two sides.
const (
	clientMagic uint64 = 0x6e697863
	serverMagic uint64 = 0x6478696f
)
