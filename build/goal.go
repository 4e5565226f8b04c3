package build

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/pathinfo"
	"github.com/tvixd/tvixd/storepath"
)

// goal is a derivation or path that a session wants to be there. It goes from
// step to step: a step either schedules another one, awaits other goals or an
// event, or finishes the goal.
type goal struct {
	s       *session
	drvPath storepath.Path // zero for a plain path
	path    storepath.Path // zero for a derivation
	mode    Mode
	top     bool // stands for a target

	next func(*goal) error    // the step that is due
	over func(*goal, outcome) // takes the end of the job or fetch that is awaited

	waiters     []*goal // await this one
	then        func(*goal) error
	waiting     int // goals that this one awaits
	failed      int // of those that it awaited
	unavailable int // of failed: there was nobody to fetch from

	running bool // its job or fetch has begun
	done    bool
	result  outcome

	// Of derivations.
	drv    *derivation.Derivation
	basic  bool            // drv came with the request
	wanted map[string]bool // outputs; empty means all
	job    *job            // that it listens to

	// Of paths.
	substitute Substitute
}

// outcome is how a goal ended.
type outcome struct {
	status Status
	msg    string
	// noSubstitute marks a path that nobody has. That is no failure when it
	// can be built.
	noSubstitute bool
	// retry asks the goals that listened to a job to ask for another one: it
	// ended for a reason that was not theirs.
	retry bool

	// mismatch marks a fixed output that is not what was promised.
	mismatch bool

	start, stop time.Time
	built       uint64
	nondet      bool
	user, sys   time.Duration
}

// drvGoal is the goal of a derivation and, at least, some outputs of it.
func (s *session) drvGoal(drvPath storepath.Path, outputs []string, mode Mode) *goal {
	g := s.drvGoals[drvPath]
	if g != nil && !(g.done && g.lacks(outputs)) {
		g.want(outputs)
		return g
	}
	old := g
	g = &goal{s: s, drvPath: drvPath, mode: mode}
	if old != nil {
		g.drv, g.basic = old.drv, old.basic
	}
	if len(outputs) > 0 {
		g.wanted = make(map[string]bool, len(outputs))
		g.want(outputs)
	}
	s.drvGoals[drvPath] = g
	s.builds.expected++
	s.schedule(g, (*goal).begin)
	return g
}

// lacks reports whether a goal that is done did not look after all of outputs.
func (g *goal) lacks(outputs []string) bool {
	if len(g.wanted) == 0 {
		return false
	}
	for _, o := range outputs {
		if !g.wanted[o] {
			return true
		}
	}
	return len(outputs) == 0
}

// want adds outputs to those that are wanted.
func (g *goal) want(outputs []string) {
	if len(outputs) == 0 {
		g.wanted = nil
	}
	if g.wanted == nil {
		return
	}
	for _, o := range outputs {
		g.wanted[o] = true
	}
}

// begin gets the derivation, from elsewhere if it must be.
func (g *goal) begin() error {
	s := g.s
	if g.drv != nil {
		s.schedule(g, (*goal).examine)
		return nil
	}
	s.lease.Add(g.drvPath)
	drv, err := s.b.store.ReadDerivation(s.ctx, g.drvPath)
	switch {
	case errors.Is(err, pathinfo.ErrNotFound):
		return s.await(g, []*goal{s.pathGoal(g.drvPath)}, (*goal).fetchedDerivation)
	case err != nil:
		return err
	}
	g.drv = drv
	s.schedule(g, (*goal).examine)
	return nil
}

func (g *goal) fetchedDerivation() error {
	if g.failed > 0 {
		return failf(MiscFailure, "cannot build missing derivation '%s'", g.s.b.dir.Join(g.drvPath))
	}
	drv, err := g.s.b.store.ReadDerivation(g.s.ctx, g.drvPath)
	if err != nil {
		return err
	}
	g.drv = drv
	g.s.schedule(g, (*goal).examine)
	return nil
}

// invalidOutputs are the wanted outputs that are not valid.
func (g *goal) invalidOutputs() ([]storepath.Path, error) {
	names := wantedNames(g.drv, g.wanted)
	paths := make([]storepath.Path, 0, len(names))
	for _, name := range names {
		paths = append(paths, g.drv.Outputs[name].Path)
	}
	g.s.lease.Add(paths...)
	valid, err := g.s.b.store.PathInfo().Valid(g.s.ctx, paths)
	if err != nil {
		return nil, err
	}
	isValid := make(map[storepath.Path]bool, len(valid))
	for _, p := range valid {
		isValid[p] = true
	}
	missing := paths[:0]
	for _, p := range paths {
		if !isValid[p] {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// examine looks what is there, and whether the rest can be fetched.
func (g *goal) examine() error {
	s := g.s
	if err := checkKind(g.drv); err != nil {
		return err
	}
	if err := checkWanted(s.b.dir, g.drvPath, g.drv, g.wanted); err != nil {
		return err
	}
	missing, err := g.invalidOutputs()
	if err != nil {
		return err
	}
	if len(missing) == 0 && g.mode == Normal {
		s.finish(g, outcome{status: AlreadyValid})
		return nil
	}
	if s.b.subst == nil || !s.settings.UseSubstitute || len(missing) == 0 {
		s.schedule(g, (*goal).substituted)
		return nil
	}
	attrs, err := parseAttributes(g.drvPath, g.drv)
	if err != nil {
		return err
	}
	allowed, err := attrs.boolean("allowSubstitutes", true)
	if err != nil {
		return err
	}
	if !allowed {
		s.schedule(g, (*goal).substituted)
		return nil
	}
	goals := make([]*goal, len(missing))
	for i, p := range missing {
		goals[i] = s.pathGoal(p)
	}
	return s.await(g, goals, (*goal).substituted)
}

// substituted goes on when all that could be fetched is.
func (g *goal) substituted() error {
	s := g.s
	if g.failed > g.unavailable && !s.settings.Fallback {
		return failf(TransientFailure, "some substitutes for the outputs of derivation '%s' failed "+
			"(usually happens due to networking issues); try '--fallback' to build derivation from source ",
			s.b.dir.Join(g.drvPath))
	}
	missing, err := g.invalidOutputs()
	if err != nil {
		return err
	}
	switch {
	case len(missing) == 0 && g.mode == Normal:
		s.finish(g, outcome{status: Substituted})
		return nil
	case len(missing) > 0 && g.mode == Check:
		return failf(MiscFailure, "some outputs of '%s' are not valid, so checking is not possible",
			s.b.dir.Join(g.drvPath))
	case len(missing) == 0 && g.mode == Repair:
		good, err := g.outputsGood()
		if err != nil {
			return err
		}
		if good {
			s.finish(g, outcome{status: AlreadyValid})
			return nil
		}
	}
	return g.awaitInputs()
}

// outputsGood reads the wanted outputs, and reports whether they are what they
// were when they were registered.
func (g *goal) outputsGood() (bool, error) {
	s := g.s
	good := true
	for _, name := range wantedNames(g.drv, g.wanted) {
		p := g.drv.Outputs[name].Path
		full := s.b.dir.Join(p)
		s.sink.Log(LevelInfo, "checking path '"+full+"'...")
		info, err := s.b.store.PathInfo().Get(s.ctx, p)
		if err != nil {
			return false, err
		}
		h := nixhash.SHA256.New()
		if err := s.b.store.NARFromPath(s.ctx, p, h); err != nil && s.ctx.Err() != nil {
			return false, err
		} else if err != nil || nixhash.Finish(nixhash.SHA256, h) != info.NarHash {
			logError(s.sink, "path '"+full+"' is corrupted or missing!")
			good = false
		}
	}
	return good, nil
}

// awaitInputs makes goals of the inputs.
func (g *goal) awaitInputs() error {
	s := g.s
	var goals []*goal
	if !g.basic {
		mode := Normal
		if g.mode == Repair {
			mode = Repair
		}
		for _, p := range sortedInputs(g.drv) {
			goals = append(goals, s.drvGoal(p, g.drv.InputDrvs[p].Outputs, mode))
		}
	}
	s.lease.Add(g.drv.InputSrcs...)
	valid, err := s.b.store.PathInfo().Valid(s.ctx, g.drv.InputSrcs)
	if err != nil {
		return err
	}
	if len(valid) < len(g.drv.InputSrcs) {
		isValid := make(map[storepath.Path]bool, len(valid))
		for _, p := range valid {
			isValid[p] = true
		}
		for _, p := range g.drv.InputSrcs {
			if isValid[p] {
				continue
			}
			if !s.settings.UseSubstitute {
				return failf(MiscFailure, "dependency '%s' of '%s' does not exist, and substitution is disabled",
					s.b.dir.Join(p), s.b.dir.Join(g.drvPath))
			}
			goals = append(goals, s.pathGoal(p))
		}
	}
	return s.await(g, goals, (*goal).inputsDone)
}

// inputsDone asks for a job.
func (g *goal) inputsDone() error {
	s := g.s
	dir := s.b.dir
	if g.failed > 0 {
		if g.basic {
			return failf(MiscFailure, "some dependencies of '%s' are missing", dir.Join(g.drvPath))
		}
		return failf(DependencyFailed, "%v dependencies of derivation '%s' failed to build", g.failed, dir.Join(g.drvPath))
	}
	spec, err := g.spec()
	if err != nil {
		return err
	}
	if s.settings.MaxJobs <= 0 {
		s.err = &Error{Status: MiscFailure, Msg: "unable to start any build; either increase '--max-jobs' " +
			"or enable remote builds.\nhttps://nixos.org/manual/nix/stable/advanced-topics/distributed-builds.html"}
		return nil
	}
	g.over = (*goal).jobOver
	return s.b.request(g, spec)
}

// spec is what a job needs to know of the goal.
func (g *goal) spec() (*jobSpec, error) {
	s := g.s
	dir := s.b.dir
	attrs, err := parseAttributes(g.drvPath, g.drv)
	if err != nil {
		return nil, err
	}
	if err := attrs.checkPlatform(dir, s.settings); err != nil {
		return nil, err
	}
	if g.drv.IsBuiltin() {
		return nil, failf(InputRejected, "unsupported builtin builder '%s'", g.drv.Builder[len("builtin:"):])
	}
	isolated, err := attrs.isolated(dir, s.settings)
	if err != nil {
		return nil, err
	}
	spec := &jobSpec{
		drvPath: g.drvPath, drv: g.drv, attrs: attrs, mode: g.mode, settings: *s.settings, isolated: isolated,
		name: g.name(),
	}
	spec.inputs = append(spec.inputs, g.drv.InputSrcs...)
	if g.basic {
		return spec, nil
	}
	for p, in := range g.drv.InputDrvs {
		for _, name := range in.Outputs {
			o, ok := s.drvGoals[p].drv.Outputs[name]
			if !ok {
				return nil, failf(MiscFailure, "derivation '%s' requires non-existent output '%s' from input derivation '%s'",
					dir.Join(g.drvPath), name, dir.Join(p))
			}
			spec.inputs = append(spec.inputs, o.Path)
		}
	}
	spec.inputs = storepath.SortUnique(spec.inputs)
	return spec, nil
}

// name is what Nix calls the goal in messages about limits.
func (g *goal) name() string {
	full := g.s.b.dir.Join(g.drvPath)
	if g.basic {
		return "building of '" + full + "' from in-memory derivation"
	}
	wanted := "*"
	if len(g.wanted) > 0 {
		wanted = strings.Join(wantedNames(g.drv, g.wanted), ",")
	}
	return "building of '" + full + "!" + wanted + "' from .drv file"
}

// jobOver takes the end of the goal's job.
func (g *goal) jobOver(o outcome) {
	g.job = nil
	if o.retry {
		g.s.schedule(g, (*goal).substituted)
		return
	}
	g.s.finish(g, o)
}

// release lets go of what only a goal that is not done needs.
func (g *goal) release() { g.next, g.then, g.over = nil, nil, nil }

// toResult is the goal's outcome for a target.
func (g *goal) toResult(t Target, skipIDs bool) Result {
	r := Result{Target: t, Status: MiscFailure}
	if !g.done {
		return r // another target failed, and there was no keep-going
	}
	o := g.result
	r.Status, r.ErrorMsg = o.status, o.msg
	r.quiet = o.noSubstitute
	r.Start, r.Stop, r.TimesBuilt, r.NonDeterministic = o.start, o.stop, o.built, o.nondet
	r.CPUUser, r.CPUSystem = o.user, o.sys
	if !o.status.OK() || g.drv == nil {
		return r
	}
	names := t.Outputs
	if len(names) == 0 {
		names = g.drv.OutputNames()
	}
	hash := ""
	if !skipIDs {
		hash = g.moduloHash()
	}
	r.Outputs = make(map[string]Realised, len(names))
	for _, name := range names {
		out := Realised{Path: g.drv.Outputs[name].Path}
		if hash != "" {
			out.ID = hash + "!" + name
		}
		r.Outputs[name] = out
	}
	return r
}

// moduloHash is the hash that names the derivation's outputs, or "" if an
// input cannot be read.
func (g *goal) moduloHash() string {
	b := g.s.b
	m, err := b.store.Hasher().HashModulo(g.drv, func(p storepath.Path) (*derivation.Derivation, error) {
		if in := g.s.drvGoals[p]; in != nil && in.drv != nil {
			return in.drv, nil
		}
		return b.store.ReadDerivation(g.s.ctx, p)
	})
	if err != nil {
		b.logger.Warn("cannot name realisations", "derivation", g.drvPath, "error", err)
		return ""
	}
	return fmt.Sprintf("%s:%s", m.Hash.Algo, m.Hash.Base16())
}
