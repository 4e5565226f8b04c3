package workerprotocol

import "github.com/tvixd/tvixd/storepath"

// BuildPathsRequest asks to build or substitute targets, for BuildPaths and
// BuildPathsWithResults.
type BuildPathsRequest struct {
	Targets []DerivedPath
	Mode    BuildMode
}

func (m *BuildPathsRequest) check(p Protocol) error { return checkDerivedPaths(m.Targets, p) }

func (m *BuildPathsRequest) code(c *coder) {
	c.derivedPaths("targets", &m.Targets)
	enum(c, "build mode", &m.Mode, buildModes)
}

// BuildPathsWithResultsResponse has a result for every target.
type BuildPathsWithResultsResponse struct{ Results []KeyedBuildResult }

func (m *BuildPathsWithResultsResponse) check(p Protocol) error {
	for i := range m.Results {
		if err := m.Results[i].check(p); err != nil {
			return err
		}
	}
	return nil
}

func (m *BuildPathsWithResultsResponse) code(c *coder) {
	list(c, "build results", &m.Results, func(c *coder, r *KeyedBuildResult) { r.code(c) })
}

// BuildDerivationRequest asks to build a derivation that comes with the request.
type BuildDerivationRequest struct {
	// Path is the derivation's path, which need not be valid.
	Path       storepath.Path
	Derivation BasicDerivation
	Mode       BuildMode
}

func (m *BuildDerivationRequest) code(c *coder) {
	c.path("derivation path", &m.Path)
	m.Derivation.code(c)
	enum(c, "build mode", &m.Mode, buildModes)
}

// BuildDerivationResponse answers it.
type BuildDerivationResponse struct{ Result BuildResult }

func (m *BuildDerivationResponse) code(c *coder) { m.Result.code(c) }

// SetOptionsRequest sets the options of a connection.
type SetOptionsRequest struct {
	KeepFailed, KeepGoing, TryFallback bool
	Verbosity                          Verbosity
	MaxBuildJobs                       uint32
	// MaxSilentTime is in seconds.
	MaxSilentTime uint32
	// VerboseBuild asks for the builder's output as log messages. It is sent as a level, of
	// which LevelError is yes and everything else no.
	VerboseBuild   bool
	BuildCores     uint32
	UseSubstitutes bool
	// Overrides are settings by name.
	Overrides map[string]string
}

func (m *SetOptionsRequest) code(c *coder) {
	c.bool("keep-failed", &m.KeepFailed)
	c.bool("keep-going", &m.KeepGoing)
	c.bool("fallback", &m.TryFallback)
	c.level("verbosity", &m.Verbosity)
	c.uint32("max-jobs", &m.MaxBuildJobs)
	c.uint32("max-silent-time", &m.MaxSilentTime)
	c.obsolete("build hook flag", 1)
	verboseBuild := LevelVomit
	if m.VerboseBuild {
		verboseBuild = LevelError
	}
	c.level("build verbosity", &verboseBuild)
	if c.reading() {
		m.VerboseBuild = verboseBuild == LevelError
	}
	c.obsolete("log type", 0)
	c.obsolete("build trace flag", 0)
	c.uint32("cores", &m.BuildCores)
	c.bool("substitute", &m.UseSubstitutes)
	dict(c, "settings", &m.Overrides, func(c *coder, v *string) { c.text("setting", v) })
}

// level moves a log level. Levels beyond the last one are taken for it.
func (c *coder) level(what string, v *Verbosity) {
	n := uint32(*v)
	c.uint32(what, &n)
	if c.reading() {
		*v = Verbosity(min(n, uint32(LevelVomit)))
	}
}
