package workerprotocol

import (
	"bytes"
	"strings"
	"time"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// Values that the tests send, with every field set.

var (
	pathFoo  = mustPath("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo")
	pathBar  = mustPath("g1w7hyyyy1w7hy3qg1w7hy3qgqqqqy3q-bar-1.2+x_y?z=")
	drvFoo   = mustPath("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo.drv")
	hashFoo  = mustHash("15e3c560894cbb27085cf65b5a2ecb18488c999497f4531b6907a7581ce6d527")
	timeFoo  = time.Unix(1700000000, 0).UTC()
	caFoo    = storepath.ContentAddress{Method: storepath.NAR, Hash: hashFoo}
	sigFoo   = "cache.example.org-1:" + strings.Repeat("A", 86) + "=="
	infoFoo  = PathInfo{drvFoo, hashFoo, []storepath.Path{pathFoo, pathBar}, timeFoo, 34878, true, []string{sigFoo}, caFoo}
	validFoo = ValidPathInfo{pathFoo, infoFoo}
	subsFoo  = SubstitutableInfo{drvFoo, []storepath.Path{pathBar}, 123, 4567}

	// targetsFoo can be named in every version.
	targetsFoo = []DerivedPath{
		{Path: pathFoo}, {Path: drvFoo, All: true}, {Path: drvFoo, Outputs: []string{"dev", "out"}},
	}
	idFoo          = DrvOutput{Drv: drvFoo, Hash: hashFoo, Output: "out"}
	realisationFoo = Realisation{
		ID: idFoo, OutPath: pathFoo, Signatures: []string{sigFoo},
		Dependencies: map[DrvOutput]storepath.Path{{Hash: hashFoo, Output: "lib"}: pathBar},
	}
	cpuFoo    = 604 * time.Millisecond
	resultFoo = BuildResult{
		Status: BuildBuilt, TimesBuilt: 3, NonDeterministic: true, Start: timeFoo, Stop: timeFoo.Add(time.Minute),
		CPUUser: &cpuFoo, BuiltOutputs: map[string]Realisation{"out": realisationFoo},
	}
	derivationFoo = BasicDerivation{
		Outputs:   map[string]BasicOutput{"out": {"/nix/store/" + pathFoo.Base(), "r:sha256", hashFoo.Base16()}, "dev": {}},
		InputSrcs: []storepath.Path{pathBar}, Platform: "x86_64-linux", Builder: "/bin/sh",
		Args: []string{"-c", "echo", ""}, Env: map[string]string{"a": "b", "out": "\x00\xff", "": "x"},
	}
	optionsFoo = SetOptionsRequest{
		true, false, true, LevelTalkative, 7, 600, true, 4, true,
		map[string]string{"extra-platforms": "a b", "log-lines": "3"},
	}
)

// sample is an operation with a request and a response. The request has data where the operation
// has.
type sample struct {
	request, response Message
	data              []byte
}

var narFoo = fileNAR([]byte("hello\n"))

// dirNAR is an archive with everything in it that misleads one who looks for its end.
var dirNAR = trickyNAR(70_000)

func trickyNAR(size int) []byte {
	return narOf("(", "type", "directory",
		"entry", "(", "name", "(", "node", "(", "type", "symlink", "target", ")", ")", ")",
		"entry", "(", "name", ")", "node", "(", "type", "regular", "executable", "", "contents", strings.Repeat("(", size), ")", ")",
		"entry", "(", "name", "empty", "node", "(", "type", "regular", ")", ")",
		"entry", "(", "name", "name", "node", "(", "type", "directory", ")", ")",
		")")
}

func narOf(words ...string) []byte {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.String(narMagic)
	for _, s := range words {
		w.String(s)
	}
	if err := w.Flush(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// samples has every operation that is served.
func samples() map[Op]sample {
	path, paths := &PathRequest{pathFoo}, &PathsResponse{[]storepath.Path{pathFoo, pathBar}}
	ack, empty := &AckResponse{}, &EmptyResponse{}
	return map[Op]sample{
		OpIsValidPath:                 {path, &IsValidPathResponse{true}, nil},
		OpQueryReferrers:              {path, paths, nil},
		OpAddToStore:                  {&AddToStoreRequest{Name: "foo", Method: storepath.NAR, Algo: nixhash.SHA256}, &AddToStoreResponse{validFoo}, dirNAR},
		OpAddTextToStore:              {&AddTextToStoreRequest{"foo", "text", []storepath.Path{pathBar}}, &PathResponse{pathFoo}, nil},
		OpBuildPaths:                  {&BuildPathsRequest{targetsFoo, BuildRepair}, ack, nil},
		OpEnsurePath:                  {path, ack, nil},
		OpAddTempRoot:                 {path, ack, nil},
		OpAddIndirectRoot:             {&AddIndirectRootRequest{"/tmp/result"}, ack, nil},
		OpSyncWithGC:                  {&EmptyRequest{}, ack, nil},
		OpFindRoots:                   {&EmptyRequest{}, &FindRootsResponse{[]Root{{"/tmp/result", pathFoo}, {"{censored}", pathBar}}}, nil},
		OpQueryDeriver:                {path, &OptionalPathResponse{drvFoo}, nil},
		OpSetOptions:                  {&optionsFoo, empty, nil},
		OpCollectGarbage:              {&CollectGarbageRequest{Action: GCDeleteSpecific, Paths: []storepath.Path{pathFoo}, MaxFreed: GCNoLimit}, &CollectGarbageResponse{[]string{"/nix/store/x"}, 12}, nil},
		OpQuerySubstitutablePathInfo:  {path, &QuerySubstitutablePathInfoResponse{&subsFoo}, nil},
		OpQueryDerivationOutputs:      {path, paths, nil},
		OpQueryAllValidPaths:          {&EmptyRequest{}, paths, nil},
		OpQueryPathInfo:               {path, &QueryPathInfoResponse{&infoFoo}, nil},
		OpQueryDerivationOutputNames:  {path, &NamesResponse{[]string{"dev", "out"}}, nil},
		OpQueryPathFromHashPart:       {&QueryPathFromHashPartRequest{pathFoo.Digest()}, &OptionalPathResponse{pathFoo}, nil},
		OpQuerySubstitutablePathInfos: {&QuerySubstitutablePathInfosRequest{[]PathWithCA{{pathFoo, caFoo}, {Path: pathBar}}}, &QuerySubstitutablePathInfosResponse{[]SubstitutablePathInfo{{pathFoo, subsFoo}}}, nil},
		OpQueryValidPaths:             {&QueryValidPathsRequest{paths.Paths, true}, paths, nil},
		OpQuerySubstitutablePaths:     {&PathsRequest{paths.Paths}, paths, nil},
		OpQueryValidDerivers:          {path, paths, nil},
		OpOptimiseStore:               {&EmptyRequest{}, ack, nil},
		OpVerifyStore:                 {&VerifyStoreRequest{true, false}, &VerifyStoreResponse{true}, nil},
		OpBuildDerivation:             {&BuildDerivationRequest{drvFoo, derivationFoo, BuildCheck}, &BuildDerivationResponse{resultFoo}, nil},
		OpAddSignatures:               {&AddSignaturesRequest{pathFoo, []string{sigFoo}}, ack, nil},
		OpNarFromPath:                 {path, empty, nil},
		OpAddToStoreNar:               {&AddToStoreNarRequest{validFoo, true, true}, empty, dirNAR},
		OpQueryMissing:                {&QueryMissingRequest{targetsFoo}, &QueryMissingResponse{[]storepath.Path{drvFoo}, paths.Paths, nil, 1, 2}, nil},
		OpQueryDerivationOutputMap:    {path, &QueryDerivationOutputMapResponse{map[string]storepath.Path{"out": pathFoo, "dev": {}}}, nil},
		OpRegisterDrvOutput:           {&RegisterDrvOutputRequest{realisationFoo}, empty, nil},
		OpQueryRealisation:            {&QueryRealisationRequest{idFoo}, &QueryRealisationResponse{&realisationFoo}, nil},
		OpAddMultipleToStore:          {&AddMultipleToStoreRequest{true, true}, empty, itemsData()},
		OpAddBuildLog:                 {&AddBuildLogRequest{drvFoo}, ack, []byte("a line\nand another\n")},
		OpBuildPathsWithResults:       {&BuildPathsRequest{append(targetsFoo[:3:3], DerivedPath{Path: drvFoo, Via: []string{"out"}, All: true}), BuildNormal}, &BuildPathsWithResultsResponse{[]KeyedBuildResult{{targetsFoo[2], resultFoo}}}, nil},
		OpAddPermRoot:                 {&AddPermRootRequest{pathFoo, "/tmp/root"}, &AddPermRootResponse{"/tmp/root"}, nil},
		OpSubmitOutput:                {&SubmitOutputRequest{SingleDerivedPath{drvFoo, []string{"out", "dev"}}, "out"}, ack, nil},
		OpAddToStoreScanning:          {&AddToStoreScanningRequest{"foo", storepath.Flat, nixhash.SHA512}, &AddToStoreResponse{validFoo}, []byte("flat")},
	}
}

// testItems are what AddMultipleToStore sends in the tests.
func testItems() []Item {
	return []Item{
		{validFoo, bytes.NewReader(dirNAR)},
		{ValidPathInfo{pathBar, PathInfo{NarHash: hashFoo}}, bytes.NewReader(narFoo)},
	}
}

func itemsData() []byte {
	var b bytes.Buffer
	items := testItems()
	w := NewItemWriter(&b, storepath.DefaultDir, uint64(len(items)))
	for _, item := range items {
		if err := w.Add(&item.Info, item.NAR); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// protocols are those in which everything is tried.
func protocols() []Protocol {
	var all []Protocol
	for _, minor := range []uint8{18, 19, 20, 21, 22, 23, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38} {
		all = append(all, v1(minor))
	}
	return append(all, Protocol{MaxVersion, DaemonFeatures}, Protocol{MaxVersion, AllFeatures})
}
