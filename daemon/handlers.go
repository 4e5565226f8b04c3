package daemon

import wp "github.com/tvixd/tvixd/worker-protocol"

// handlers has every operation that is served.
var handlers = map[wp.Op]handler{
	// queries.go
	wp.OpIsValidPath:                 answer(isValidPath),
	wp.OpQueryValidPaths:             answer(queryValidPaths),
	wp.OpQueryAllValidPaths:          answer(queryAllValidPaths),
	wp.OpQueryPathInfo:               answer(queryPathInfo),
	wp.OpQueryPathFromHashPart:       answer(queryPathFromHashPart),
	wp.OpQueryReferrers:              answer(queryReferrers),
	wp.OpQueryDeriver:                answer(queryDeriver),
	wp.OpQueryValidDerivers:          answer(queryValidDerivers),
	wp.OpQueryDerivationOutputs:      answer(queryDerivationOutputs),
	wp.OpQueryDerivationOutputNames:  answer(queryDerivationOutputNames),
	wp.OpQueryDerivationOutputMap:    answer(queryDerivationOutputMap),
	wp.OpQuerySubstitutablePaths:     answer(querySubstitutablePaths),
	wp.OpQuerySubstitutablePathInfo:  answer(querySubstitutablePathInfo),
	wp.OpQuerySubstitutablePathInfos: answer(querySubstitutablePathInfos),
	wp.OpNarFromPath:                 narFromPath,

	// adds.go
	wp.OpAddToStore:         answer(addToStore),
	wp.OpAddTextToStore:     answer(addTextToStore),
	wp.OpAddToStoreNar:      answer(addToStoreNar),
	wp.OpAddMultipleToStore: answer(addMultipleToStore),
	wp.OpAddSignatures:      answer(addSignatures),

	// builds.go
	wp.OpBuildPaths:            answer(buildPaths),
	wp.OpBuildPathsWithResults: answer(buildPathsWithResults),
	wp.OpBuildDerivation:       answer(buildDerivation),
	wp.OpEnsurePath:            answer(ensurePath),
	wp.OpQueryMissing:          answer(queryMissing),
	wp.OpAddBuildLog:           answer(addBuildLog),

	// realisations.go
	wp.OpRegisterDrvOutput: answer(registerDrvOutput),
	wp.OpQueryRealisation:  answer(queryRealisation),

	// roots.go
	wp.OpAddTempRoot:     answer(addTempRoot),
	wp.OpAddIndirectRoot: answer(addIndirectRoot),
	wp.OpAddPermRoot:     answer(addPermRoot),
	wp.OpSyncWithGC:      answer(syncWithGC),
	wp.OpFindRoots:       answer(findRoots),
	wp.OpCollectGarbage:  answer(collectGarbage),

	// maintenance.go
	wp.OpSetOptions:    answer(setOptions),
	wp.OpOptimiseStore: answer(optimiseStore),
	wp.OpVerifyStore:   answer(verifyStore),
}
