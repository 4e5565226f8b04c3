package workerprotocol

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"

	"github.com/tvixd/tvixd/storepath"
)

// IsValidPath asks whether a path is valid.
func (c *Client) IsValidPath(ctx context.Context, p storepath.Path) (bool, error) {
	var r IsValidPathResponse
	err := c.call(ctx, OpIsValidPath, &IsValidPathRequest{p}, &r)
	return r.Valid, err
}

// paths calls an operation that takes one path and returns many.
func (c *Client) paths(ctx context.Context, op Op, p storepath.Path) ([]storepath.Path, error) {
	var r PathsResponse
	err := c.call(ctx, op, &PathRequest{p}, &r)
	return r.Paths, err
}

// ack calls an operation that returns nothing of interest.
func (c *Client) ack(ctx context.Context, op Op, request Message) error {
	return c.call(ctx, op, request, &AckResponse{})
}

// QueryReferrers lists the valid paths that refer to p.
func (c *Client) QueryReferrers(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	return c.paths(ctx, OpQueryReferrers, p)
}

// QueryValidDerivers lists the valid derivations that have p as an output.
func (c *Client) QueryValidDerivers(ctx context.Context, p storepath.Path) ([]storepath.Path, error) {
	return c.paths(ctx, OpQueryValidDerivers, p)
}

// QueryDerivationOutputs lists the outputs of a derivation. Old.
func (c *Client) QueryDerivationOutputs(ctx context.Context, drv storepath.Path) ([]storepath.Path, error) {
	return c.paths(ctx, OpQueryDerivationOutputs, drv)
}

// QueryDerivationOutputNames lists the names of a derivation's outputs. Old.
func (c *Client) QueryDerivationOutputNames(ctx context.Context, drv storepath.Path) ([]string, error) {
	var r NamesResponse
	err := c.call(ctx, OpQueryDerivationOutputNames, &PathRequest{drv}, &r)
	return r.Names, err
}

// QueryDerivationOutputMap has the outputs of a derivation by name.
func (c *Client) QueryDerivationOutputMap(ctx context.Context, drv storepath.Path) (map[string]storepath.Path, error) {
	var r QueryDerivationOutputMapResponse
	err := c.call(ctx, OpQueryDerivationOutputMap, &PathRequest{drv}, &r)
	return r.Outputs, err
}

// QueryDeriver is the derivation that made p, or none. Old.
func (c *Client) QueryDeriver(ctx context.Context, p storepath.Path) (storepath.Path, error) {
	var r OptionalPathResponse
	err := c.call(ctx, OpQueryDeriver, &PathRequest{p}, &r)
	return r.Path, err
}

// QueryPathFromHashPart is the valid path with the digest, or none.
func (c *Client) QueryPathFromHashPart(ctx context.Context, digest [storepath.DigestSize]byte) (storepath.Path, error) {
	var r OptionalPathResponse
	err := c.call(ctx, OpQueryPathFromHashPart, &QueryPathFromHashPartRequest{digest}, &r)
	return r.Path, err
}

// QueryAllValidPaths lists all valid paths.
func (c *Client) QueryAllValidPaths(ctx context.Context) ([]storepath.Path, error) {
	var r PathsResponse
	err := c.call(ctx, OpQueryAllValidPaths, &EmptyRequest{}, &r)
	return r.Paths, err
}

// QueryValidPaths is the valid ones of some paths. With substitute, missing ones are fetched
// first; before 1.27 that is not sent.
func (c *Client) QueryValidPaths(ctx context.Context, paths []storepath.Path, substitute bool) ([]storepath.Path, error) {
	var r PathsResponse
	err := c.call(ctx, OpQueryValidPaths, &QueryValidPathsRequest{paths, substitute}, &r)
	return r.Paths, err
}

// QuerySubstitutablePaths is those of some paths that a substituter has.
func (c *Client) QuerySubstitutablePaths(ctx context.Context, paths []storepath.Path) ([]storepath.Path, error) {
	var r PathsResponse
	err := c.call(ctx, OpQuerySubstitutablePaths, &PathsRequest{paths}, &r)
	return r.Paths, err
}

// QueryPathInfo is what is known of p, or nil when it is not valid.
func (c *Client) QueryPathInfo(ctx context.Context, p storepath.Path) (*PathInfo, error) {
	var r QueryPathInfoResponse
	err := c.call(ctx, OpQueryPathInfo, &PathRequest{p}, &r)
	return r.Info, err
}

// QuerySubstitutablePathInfo is what substituters know of p, or nil. Old.
func (c *Client) QuerySubstitutablePathInfo(ctx context.Context, p storepath.Path) (*SubstitutableInfo, error) {
	var r QuerySubstitutablePathInfoResponse
	err := c.call(ctx, OpQuerySubstitutablePathInfo, &PathRequest{p}, &r)
	return r.Info, err
}

// QuerySubstitutablePathInfos is what substituters know of some paths.
func (c *Client) QuerySubstitutablePathInfos(ctx context.Context, paths []PathWithCA) ([]SubstitutablePathInfo, error) {
	var r QuerySubstitutablePathInfosResponse
	err := c.call(ctx, OpQuerySubstitutablePathInfos, &QuerySubstitutablePathInfosRequest{paths}, &r)
	return r.Infos, err
}

// QueryMissing tells what would be done to get the targets.
func (c *Client) QueryMissing(ctx context.Context, targets []DerivedPath) (*QueryMissingResponse, error) {
	var r QueryMissingResponse
	err := c.call(ctx, OpQueryMissing, &QueryMissingRequest{targets}, &r)
	return &r, err
}

// QueryRealisation tells where an output is, or nil when that is not known.
func (c *Client) QueryRealisation(ctx context.Context, id DrvOutput) (*Realisation, error) {
	var r QueryRealisationResponse
	if err := c.call(ctx, OpQueryRealisation, &QueryRealisationRequest{id}, &r); err != nil {
		return nil, err
	}
	if r.Realisation != nil {
		r.Realisation.ID = id
	}
	return r.Realisation, nil
}

// RegisterDrvOutput tells where an output is.
func (c *Client) RegisterDrvOutput(ctx context.Context, r Realisation) error {
	return c.call(ctx, OpRegisterDrvOutput, &RegisterDrvOutputRequest{r}, &EmptyResponse{})
}

// EnsurePath makes p valid by substitution, if it is not yet.
func (c *Client) EnsurePath(ctx context.Context, p storepath.Path) error {
	return c.ack(ctx, OpEnsurePath, &PathRequest{p})
}

// AddTempRoot keeps p from collection as long as the connection lasts.
func (c *Client) AddTempRoot(ctx context.Context, p storepath.Path) error {
	return c.ack(ctx, OpAddTempRoot, &PathRequest{p})
}

// AddIndirectRoot makes a link a root.
func (c *Client) AddIndirectRoot(ctx context.Context, link string) error {
	return c.ack(ctx, OpAddIndirectRoot, &AddIndirectRootRequest{link})
}

// AddPermRoot makes a link to p, as a root, and returns where it is.
func (c *Client) AddPermRoot(ctx context.Context, p storepath.Path, root string) (string, error) {
	var r AddPermRootResponse
	err := c.call(ctx, OpAddPermRoot, &AddPermRootRequest{p, root}, &r)
	return r.Root, err
}

// SyncWithGC waits for nothing. Old.
func (c *Client) SyncWithGC(ctx context.Context) error {
	return c.ack(ctx, OpSyncWithGC, &EmptyRequest{})
}

// FindRoots lists all roots.
func (c *Client) FindRoots(ctx context.Context) ([]Root, error) {
	var r FindRootsResponse
	err := c.call(ctx, OpFindRoots, &EmptyRequest{}, &r)
	return r.Roots, err
}

// CollectGarbage runs a collection.
func (c *Client) CollectGarbage(ctx context.Context, request CollectGarbageRequest) (*CollectGarbageResponse, error) {
	var r CollectGarbageResponse
	err := c.call(ctx, OpCollectGarbage, &request, &r)
	return &r, err
}

// SetOptions sets the options of the connection.
func (c *Client) SetOptions(ctx context.Context, request SetOptionsRequest) error {
	return c.call(ctx, OpSetOptions, &request, &EmptyResponse{})
}

// OptimiseStore makes equal files share their space.
func (c *Client) OptimiseStore(ctx context.Context) error {
	return c.ack(ctx, OpOptimiseStore, &EmptyRequest{})
}

// VerifyStore checks the store and reports whether errors remain.
func (c *Client) VerifyStore(ctx context.Context, checkContents, repair bool) (bool, error) {
	var r VerifyStoreResponse
	err := c.call(ctx, OpVerifyStore, &VerifyStoreRequest{checkContents, repair}, &r)
	return r.Errors, err
}

// AddSignatures adds signatures to a path.
func (c *Client) AddSignatures(ctx context.Context, p storepath.Path, signatures []string) error {
	return c.ack(ctx, OpAddSignatures, &AddSignaturesRequest{p, signatures})
}

// BuildPaths builds or substitutes targets; a failed one is an error.
func (c *Client) BuildPaths(ctx context.Context, targets []DerivedPath, mode BuildMode) error {
	return c.ack(ctx, OpBuildPaths, &BuildPathsRequest{targets, mode})
}

// BuildPathsWithResults builds or substitutes targets; a failed one is a result.
func (c *Client) BuildPathsWithResults(ctx context.Context, targets []DerivedPath, mode BuildMode) ([]KeyedBuildResult, error) {
	var r BuildPathsWithResultsResponse
	err := c.call(ctx, OpBuildPathsWithResults, &BuildPathsRequest{targets, mode}, &r)
	return r.Results, err
}

// BuildDerivation builds a derivation that need not be in the store.
func (c *Client) BuildDerivation(ctx context.Context, request BuildDerivationRequest) (*BuildResult, error) {
	var r BuildDerivationResponse
	err := c.call(ctx, OpBuildDerivation, &request, &r)
	return &r.Result, err
}

// SubmitOutput tells, inside a build, what an output of it is.
func (c *Client) SubmitOutput(ctx context.Context, p SingleDerivedPath, output string) error {
	if err := c.needs(OpSubmitOutput, FeatureSubmitOutput); err != nil {
		return err
	}
	return c.ack(ctx, OpSubmitOutput, &SubmitOutputRequest{p, output})
}

func (c *Client) needs(op Op, f Features) error {
	if !c.proto.Features.Has(f) {
		return fmt.Errorf("%s: %w, which lacks the feature %s", op, ErrUnsupported, f)
	}
	return nil
}

// copyFrom makes a writer of data out of a reader.
func copyFrom(src io.Reader) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.Copy(w, src)
		return err
	}
}

// AddToStoreNar adds a path. nar must be one whole archive.
func (c *Client) AddToStoreNar(ctx context.Context, request AddToStoreNarRequest, nar io.Reader) error {
	return c.upload(ctx, OpAddToStoreNar, &request, &EmptyResponse{}, nar, copyFrom(nar))
}

// AddToStore adds an object named by its contents: the contents themselves for Text and Flat, one
// whole archive for NAR and Git. To servers before 1.25 texts and plain files are sent in their own ways, for
// which they are held in memory.
func (c *Client) AddToStore(ctx context.Context, request AddToStoreRequest, src io.Reader) (*ValidPathInfo, error) {
	if c.proto.since(25) {
		var r AddToStoreResponse
		err := c.upload(ctx, OpAddToStore, &request, &r, src, copyFrom(src))
		return &r.Info, err
	}
	path, err := c.addToOldStore(ctx, request, src)
	if err != nil {
		return nil, err
	}
	info, err := c.QueryPathInfo(ctx, path)
	if err != nil {
		return nil, err
	}
	if info == nil {
		return nil, fmt.Errorf("path '%s' was added but is not valid", c.opts.Dir.Join(path))
	}
	return &ValidPathInfo{path, *info}, nil
}

func (c *Client) addToOldStore(ctx context.Context, request AddToStoreRequest, src io.Reader) (storepath.Path, error) {
	if request.Method == storepath.NAR {
		var r AddToStoreResponse
		err := c.upload(ctx, OpAddToStore, &request, &r, src, copyFrom(src))
		return r.Info.Path, err
	}
	contents, err := io.ReadAll(src)
	if err != nil {
		return storepath.Path{}, err
	}
	if request.Method == storepath.Text {
		return c.AddTextToStore(ctx, AddTextToStoreRequest{request.Name, string(contents), request.References})
	}
	var r AddToStoreResponse
	nar := bytes.NewReader(fileNAR(contents))
	err = c.upload(ctx, OpAddToStore, &request, &r, nar, copyFrom(nar))
	return r.Info.Path, err
}

// fileNAR is the archive of a plain file.
func fileNAR(contents []byte) []byte {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, s := range []string{narMagic, "(", "type", "regular", "contents"} {
		w.String(s)
	}
	w.Bytes(contents)
	w.String(")")
	w.dst.Flush() // a bytes.Buffer does not fail
	return b.Bytes()
}

// AddTextToStore adds a text. Servers of 1.25 and later have it for old clients.
func (c *Client) AddTextToStore(ctx context.Context, request AddTextToStoreRequest) (storepath.Path, error) {
	var r PathResponse
	err := c.call(ctx, OpAddTextToStore, &request, &r)
	return r.Path, err
}

// Item is a path to add with its archive.
type Item struct {
	Info ValidPathInfo
	// NAR must be one whole archive. It is read when it is the item's turn.
	NAR io.Reader
}

// AddMultipleToStore adds n paths, which items yields, references first.
func (c *Client) AddMultipleToStore(ctx context.Context, request AddMultipleToStoreRequest, n uint64, items iter.Seq[Item]) error {
	return c.upload(ctx, OpAddMultipleToStore, &request, &EmptyResponse{}, nil, func(dst io.Writer) error {
		w := NewItemWriter(dst, c.opts.Dir, n)
		for item := range items {
			if err := w.Add(&item.Info, item.NAR); err != nil {
				return err
			}
		}
		return w.Close()
	})
}

// AddBuildLog adds the log of a build of drv.
func (c *Client) AddBuildLog(ctx context.Context, drv storepath.Path, log io.Reader) error {
	return c.upload(ctx, OpAddBuildLog, &AddBuildLogRequest{drv}, &AckResponse{}, nil, copyFrom(log))
}

// AddToStoreScanning adds, inside a build, an object named by its contents, whose references the
// server finds.
func (c *Client) AddToStoreScanning(ctx context.Context, request AddToStoreScanningRequest, src io.Reader) (*ValidPathInfo, error) {
	if err := c.needs(OpAddToStoreScanning, FeatureAddToStoreScanning); err != nil {
		return nil, err
	}
	var r AddToStoreResponse
	err := c.upload(ctx, OpAddToStoreScanning, &request, &r, nil, copyFrom(src))
	return &r.Info, err
}

// NarFromPath writes the archive of p to w. When w fails the connection is given up.
func (c *Client) NarFromPath(ctx context.Context, p storepath.Path, w io.Writer) error {
	return c.do(ctx, OpNarFromPath, &PathRequest{p}, func() error {
		if err := c.w.Flush(); err != nil {
			return err
		}
		if err := c.processLog(nil); err != nil {
			return err
		}
		_, err := io.Copy(w, NewNARStream(c.r.src))
		return err
	})
}
