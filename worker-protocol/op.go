package workerprotocol

import "fmt"

// Op is the number of an operation.
type Op uint32

// The operations that are served. Those marked old are called by no client since Nix 2.4 or so.
const (
	OpIsValidPath                 Op = 1
	OpQueryReferrers              Op = 6
	OpAddToStore                  Op = 7
	OpAddTextToStore              Op = 8 // old: replaced by AddToStore in 1.25
	OpBuildPaths                  Op = 9
	OpEnsurePath                  Op = 10
	OpAddTempRoot                 Op = 11
	OpAddIndirectRoot             Op = 12
	OpSyncWithGC                  Op = 13 // old
	OpFindRoots                   Op = 14
	OpQueryDeriver                Op = 18 // old
	OpSetOptions                  Op = 19
	OpCollectGarbage              Op = 20
	OpQuerySubstitutablePathInfo  Op = 21 // old
	OpQueryDerivationOutputs      Op = 22 // old
	OpQueryAllValidPaths          Op = 23
	OpQueryPathInfo               Op = 26
	OpQueryDerivationOutputNames  Op = 28 // old
	OpQueryPathFromHashPart       Op = 29
	OpQuerySubstitutablePathInfos Op = 30
	OpQueryValidPaths             Op = 31
	OpQuerySubstitutablePaths     Op = 32
	OpQueryValidDerivers          Op = 33
	OpOptimiseStore               Op = 34
	OpVerifyStore                 Op = 35
	OpBuildDerivation             Op = 36
	OpAddSignatures               Op = 37
	OpNarFromPath                 Op = 38
	OpAddToStoreNar               Op = 39
	OpQueryMissing                Op = 40
	OpQueryDerivationOutputMap    Op = 41
	OpRegisterDrvOutput           Op = 42
	OpQueryRealisation            Op = 43
	OpAddMultipleToStore          Op = 44
	OpAddBuildLog                 Op = 45
	OpBuildPathsWithResults       Op = 46
	OpAddPermRoot                 Op = 47
	OpSubmitOutput                Op = 1000
	OpAddToStoreScanning          Op = 1001
)

// OpStatus tells who uses an operation.
type OpStatus uint8

const (
	// StatusUnknown is an operation that never was.
	StatusUnknown OpStatus = iota
	// StatusCalled operations are called by today's clients.
	StatusCalled
	// StatusOld operations are served for old clients only.
	StatusOld
	// StatusInSandbox operations are served to a builder only, with the feature of their name.
	StatusInSandbox
	// StatusRemoved operations were served by Nix once.
	StatusRemoved
	// StatusReserved numbers are set aside for operations to come.
	StatusReserved
)

// OpInfo describes an operation.
type OpInfo struct {
	Op     Op
	Name   string
	Status OpStatus
	// Since is the first version whose clients call the operation, Until the last one; 0 is
	// no bound.
	Since, Until Version
	// NewRequest and NewResponse make empty messages. They are nil unless the operation is
	// called, old or in-sandbox.
	NewRequest, NewResponse func() Message
}

// message makes a constructor for OpInfo.
func message[T any, P interface {
	*T
	Message
}]() func() Message {
	return func() Message { return P(new(T)) }
}

var opTable = []OpInfo{
	{OpIsValidPath, "IsValidPath", StatusCalled, 0, 0, message[IsValidPathRequest](), message[IsValidPathResponse]()},
	{3, "HasSubstitutes", StatusRemoved, 0, 0, nil, nil},
	{4, "QueryPathHash", StatusRemoved, 0, 0, nil, nil},
	{5, "QueryReferences", StatusRemoved, 0, 0, nil, nil},
	{OpQueryReferrers, "QueryReferrers", StatusCalled, 0, 0, message[PathRequest](), message[PathsResponse]()},
	{OpAddToStore, "AddToStore", StatusCalled, 0, 0, message[AddToStoreRequest](), message[AddToStoreResponse]()},
	{OpAddTextToStore, "AddTextToStore", StatusOld, 0, MakeVersion(1, 24), message[AddTextToStoreRequest](), message[PathResponse]()},
	{OpBuildPaths, "BuildPaths", StatusCalled, 0, 0, message[BuildPathsRequest](), message[AckResponse]()},
	{OpEnsurePath, "EnsurePath", StatusCalled, 0, 0, message[PathRequest](), message[AckResponse]()},
	{OpAddTempRoot, "AddTempRoot", StatusCalled, 0, 0, message[PathRequest](), message[AckResponse]()},
	{OpAddIndirectRoot, "AddIndirectRoot", StatusCalled, 0, 0, message[AddIndirectRootRequest](), message[AckResponse]()},
	{OpSyncWithGC, "SyncWithGC", StatusOld, 0, 0, message[EmptyRequest](), message[AckResponse]()},
	{OpFindRoots, "FindRoots", StatusCalled, 0, 0, message[EmptyRequest](), message[FindRootsResponse]()},
	{16, "ExportPath", StatusRemoved, 0, 0, nil, nil},
	{OpQueryDeriver, "QueryDeriver", StatusOld, 0, 0, message[PathRequest](), message[OptionalPathResponse]()},
	{OpSetOptions, "SetOptions", StatusCalled, 0, 0, message[SetOptionsRequest](), message[EmptyResponse]()},
	{OpCollectGarbage, "CollectGarbage", StatusCalled, 0, 0, message[CollectGarbageRequest](), message[CollectGarbageResponse]()},
	{OpQuerySubstitutablePathInfo, "QuerySubstitutablePathInfo", StatusOld, 0, 0, message[PathRequest](), message[QuerySubstitutablePathInfoResponse]()},
	{OpQueryDerivationOutputs, "QueryDerivationOutputs", StatusOld, 0, MakeVersion(1, 21), message[PathRequest](), message[PathsResponse]()},
	{OpQueryAllValidPaths, "QueryAllValidPaths", StatusCalled, 0, 0, message[EmptyRequest](), message[PathsResponse]()},
	{24, "QueryFailedPaths", StatusRemoved, 0, 0, nil, nil},
	{25, "ClearFailedPaths", StatusRemoved, 0, 0, nil, nil},
	{OpQueryPathInfo, "QueryPathInfo", StatusCalled, 0, 0, message[PathRequest](), message[QueryPathInfoResponse]()},
	{27, "ImportPaths", StatusRemoved, 0, 0, nil, nil},
	{OpQueryDerivationOutputNames, "QueryDerivationOutputNames", StatusOld, 0, 0, message[PathRequest](), message[NamesResponse]()},
	{OpQueryPathFromHashPart, "QueryPathFromHashPart", StatusCalled, 0, 0, message[QueryPathFromHashPartRequest](), message[OptionalPathResponse]()},
	{OpQuerySubstitutablePathInfos, "QuerySubstitutablePathInfos", StatusCalled, 0, 0, message[QuerySubstitutablePathInfosRequest](), message[QuerySubstitutablePathInfosResponse]()},
	{OpQueryValidPaths, "QueryValidPaths", StatusCalled, 0, 0, message[QueryValidPathsRequest](), message[PathsResponse]()},
	{OpQuerySubstitutablePaths, "QuerySubstitutablePaths", StatusCalled, 0, 0, message[PathsRequest](), message[PathsResponse]()},
	{OpQueryValidDerivers, "QueryValidDerivers", StatusCalled, 0, 0, message[PathRequest](), message[PathsResponse]()},
	{OpOptimiseStore, "OptimiseStore", StatusCalled, 0, 0, message[EmptyRequest](), message[AckResponse]()},
	{OpVerifyStore, "VerifyStore", StatusCalled, 0, 0, message[VerifyStoreRequest](), message[VerifyStoreResponse]()},
	{OpBuildDerivation, "BuildDerivation", StatusCalled, 0, 0, message[BuildDerivationRequest](), message[BuildDerivationResponse]()},
	{OpAddSignatures, "AddSignatures", StatusCalled, 0, 0, message[AddSignaturesRequest](), message[AckResponse]()},
	{OpNarFromPath, "NarFromPath", StatusCalled, 0, 0, message[PathRequest](), message[EmptyResponse]()},
	{OpAddToStoreNar, "AddToStoreNar", StatusCalled, 0, 0, message[AddToStoreNarRequest](), message[EmptyResponse]()},
	{OpQueryMissing, "QueryMissing", StatusCalled, MakeVersion(1, 19), 0, message[QueryMissingRequest](), message[QueryMissingResponse]()},
	{OpQueryDerivationOutputMap, "QueryDerivationOutputMap", StatusCalled, MakeVersion(1, 22), 0, message[PathRequest](), message[QueryDerivationOutputMapResponse]()},
	{OpRegisterDrvOutput, "RegisterDrvOutput", StatusCalled, MakeVersion(1, 27), 0, message[RegisterDrvOutputRequest](), message[EmptyResponse]()},
	{OpQueryRealisation, "QueryRealisation", StatusCalled, MakeVersion(1, 27), 0, message[QueryRealisationRequest](), message[QueryRealisationResponse]()},
	{OpAddMultipleToStore, "AddMultipleToStore", StatusCalled, MakeVersion(1, 32), 0, message[AddMultipleToStoreRequest](), message[EmptyResponse]()},
	{OpAddBuildLog, "AddBuildLog", StatusCalled, MakeVersion(1, 32), 0, message[AddBuildLogRequest](), message[AckResponse]()},
	{OpBuildPathsWithResults, "BuildPathsWithResults", StatusCalled, MakeVersion(1, 34), 0, message[BuildPathsRequest](), message[BuildPathsWithResultsResponse]()},
	{OpAddPermRoot, "AddPermRoot", StatusCalled, MakeVersion(1, 36), 0, message[AddPermRootRequest](), message[AddPermRootResponse]()},
	{48, "QueryActiveBuilds", StatusReserved, 0, 0, nil, nil},
	{49, "AddTempRoots", StatusReserved, 0, 0, nil, nil},
	{50, "QueryPathInfos", StatusReserved, 0, 0, nil, nil},
	{OpSubmitOutput, "SubmitOutput", StatusInSandbox, MakeVersion(1, 38), 0, message[SubmitOutputRequest](), message[AckResponse]()},
	{OpAddToStoreScanning, "AddToStoreScanning", StatusInSandbox, MakeVersion(1, 38), 0, message[AddToStoreScanningRequest](), message[AddToStoreResponse]()},
}

var opIndex = func() map[Op]*OpInfo {
	m := make(map[Op]*OpInfo, len(opTable))
	for i := range opTable {
		m[opTable[i].Op] = &opTable[i]
	}
	return m
}()

// Ops lists every number that has or had a meaning, in order.
func Ops() []OpInfo { return append([]OpInfo(nil), opTable...) }

// Info describes the operation. An unknown number has StatusUnknown.
func (o Op) Info() OpInfo {
	if info, ok := opIndex[o]; ok {
		return *info
	}
	return OpInfo{Op: o}
}

// Served reports whether requests of this operation can be read at all.
func (o Op) Served() bool { return o.Info().NewRequest != nil }

// String is the operation's name, or its number when it has none.
func (o Op) String() string {
	if info, ok := opIndex[o]; ok {
		return info.Name
	}
	return fmt.Sprintf("operation %d", uint32(o))
}
