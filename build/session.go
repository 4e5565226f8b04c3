package build

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// session is one request while it runs: the goals that it has, driven by the
// goroutine that called run. Only that goroutine touches what is not said to
// be guarded.
type session struct {
	b        *Builder
	ctx      context.Context
	mode     Mode
	settings *Settings
	sink     Sink
	lease    *store.Lease // of everything that the goals look at
	keep     *store.Lease // the client's; may be nil
	skipIDs  bool

	drvGoals  map[storepath.Path]*goal
	pathGoals map[storepath.Path]*goal
	tops      []top
	topsLeft  int

	ready []*goal // whose step is due
	err   error   // ends the session
	over  bool    // a target failed, and there is no keep-going
	exit  uint32  // parts of the exit status

	acts     activities
	builds   progress
	fetched  progress
	reported [2]progress

	mu     sync.Mutex
	events []event       // guarded by mu
	wake   chan struct{} // has one element when there are events

	queue []*job // jobs of ours that wait for a slot; guarded by Builder.mu
}

// top is a target and the goal that stands for it.
type top struct {
	target Target
	goal   *goal
}

// event is something that happened to a job or fetch of the session.
type event struct {
	goal    *goal
	started bool    // else it is over
	result  outcome // of what is over
}

// progress counts goals of a kind, as the client's progress bar shows them.
type progress struct{ done, expected, running, failed uint64 }

func newSession(b *Builder, r Request) *session {
	s := &session{
		b:         b,
		mode:      r.Mode,
		settings:  &r.Settings,
		sink:      r.Sink,
		lease:     b.store.NewLease(),
		keep:      r.Lease,
		skipIDs:   r.SkipIDs,
		drvGoals:  make(map[storepath.Path]*goal),
		pathGoals: make(map[storepath.Path]*goal),
		wake:      make(chan struct{}, 1),
	}
	if s.sink == nil {
		s.sink = Discard
	}
	return s
}

// addTarget makes the goal of a target.
func (s *session) addTarget(t Target) {
	if t.Drv.IsZero() {
		s.addTop(t, s.pathGoal(t.Path))
		return
	}
	s.addTop(t, s.drvGoal(t.Drv, t.Outputs, s.mode))
}

// addBasic makes the goal of a derivation that the store need not have.
func (s *session) addBasic(t Target, drv *derivation.Derivation) {
	g := s.drvGoal(t.Drv, t.Outputs, s.mode)
	g.drv, g.basic = drv, true
	s.addTop(t, g)
}

func (s *session) addTop(t Target, g *goal) {
	s.tops = append(s.tops, top{t, g})
	if !g.top {
		g.top = true
		s.topsLeft++
	}
}

// run drives the goals until those of the targets are done.
func (s *session) run(ctx context.Context) ([]Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.b.ctx, cancel)
	defer stop()
	s.ctx = ctx
	defer s.lease.Release()

	s.acts.start(s.sink)
	for !s.finished() {
		s.step()
		s.report()
		if s.finished() {
			break
		}
		select {
		case <-s.wake:
			s.receive()
		case <-ctx.Done():
			s.err = ctx.Err()
		}
	}
	if s.err != nil && s.b.ctx.Err() != nil {
		s.err = ErrClosed // whatever it led to
	}
	s.b.leave(s)
	s.report()
	s.acts.stop(s.sink)
	if s.err != nil {
		return nil, s.err
	}
	return s.results(), nil
}

func (s *session) finished() bool { return s.err != nil || s.over || s.topsLeft == 0 }

// step runs the goals that are ready, and those that this makes ready.
func (s *session) step() {
	for len(s.ready) > 0 && !s.finished() {
		g := s.ready[0]
		s.ready = s.ready[1:]
		if g.done {
			continue
		}
		if s.ctx.Err() != nil {
			return // run sees it
		}
		step := g.next
		g.next = nil
		if err := step(g); err != nil {
			s.fail(g, err)
		}
	}
}

// fail ends a goal that met an error of its own. Errors that are not about the
// derivation, such as a store that cannot be read, end the session.
func (s *session) fail(g *goal, err error) {
	var e *Error
	if errors.As(err, &e) {
		s.finish(g, outcome{status: e.Status, msg: e.Msg})
		return
	}
	s.err = err
}

// notify tells the session of an event. It may be called from anywhere.
func (s *session) notify(e event) {
	s.mu.Lock()
	s.events = append(s.events, e)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// receive takes in what was notified.
func (s *session) receive() {
	s.mu.Lock()
	events := s.events
	s.events = nil
	s.mu.Unlock()
	for _, e := range events {
		if e.goal.done {
			continue
		}
		count := &s.builds
		if e.goal.drvPath.IsZero() {
			count = &s.fetched
		}
		if e.started {
			count.running++
			e.goal.running = true
			continue
		}
		if e.goal.running {
			count.running--
			e.goal.running = false
		}
		e.goal.over(e.goal, e.result)
	}
}

// schedule makes step run the goal's next function.
func (s *session) schedule(g *goal, next func(*goal) error) {
	g.next = next
	s.ready = append(s.ready, g)
}

// finish ends a goal and tells those that wait for it.
func (s *session) finish(g *goal, o outcome) {
	g.done, g.result = true, o
	g.release()
	count := &s.builds
	if g.drvPath.IsZero() {
		count = &s.fetched
	}
	count.expected--
	switch {
	case o.status == Built, o.status == Substituted && g.drvPath.IsZero():
		count.done++
	case !o.status.OK() && o.status != DependencyFailed && !o.noSubstitute:
		count.failed++
	}
	s.exit |= o.exitPart()
	if o.msg != "" && len(g.waiters) > 0 && !o.noSubstitute {
		logError(s.sink, o.msg)
	}
	for _, w := range g.waiters {
		s.inputDone(w, o)
	}
	g.waiters = nil
	if g.top {
		s.topsLeft--
		if !o.status.OK() && !o.noSubstitute && !s.settings.KeepGoing {
			s.over = true
		}
	}
}

// Parts of an exit status.
const (
	exitAny              = 1
	exitBuild            = 0x60
	exitFailed           = exitBuild | 4
	exitTimedOut         = exitFailed | 1
	exitHashMismatch     = exitFailed | 2
	exitNotDeterministic = exitBuild | 8
)

// exitPart is what an outcome adds to the session's exit status.
func (o *outcome) exitPart() uint32 {
	switch {
	case o.mismatch:
		return exitHashMismatch
	case o.status == TimedOut:
		return exitTimedOut
	case o.status == PermanentFailure, o.status == InputRejected:
		return exitFailed
	case o.status == NotDeterministic:
		return exitNotDeterministic
	}
	return 0
}

// inputDone notes that a goal which w waits for is done. Without keep-going
// one failure is enough to go on.
func (s *session) inputDone(w *goal, o outcome) {
	if w.done || w.waiting == 0 {
		return // it has given up on the others
	}
	w.waiting--
	if !o.status.OK() {
		w.failed++
		if o.noSubstitute {
			w.unavailable++
		}
		if !s.settings.KeepGoing && !o.noSubstitute {
			w.waiting = 0
		}
	}
	if w.waiting == 0 {
		s.schedule(w, w.then)
	}
}

// await makes g go on with then when all of inputs are done.
func (s *session) await(g *goal, inputs []*goal, then func(*goal) error) error {
	g.then, g.waiting, g.failed, g.unavailable = then, 0, 0, 0
	for _, in := range inputs {
		if in.done {
			if !in.result.status.OK() {
				g.failed++
				if in.result.noSubstitute {
					g.unavailable++
				}
			}
			continue
		}
		g.waiting++
		in.waiters = append(in.waiters, g)
	}
	if g.waiting == 0 || g.failed > g.unavailable && !s.settings.KeepGoing {
		g.waiting = 0
		s.schedule(g, then)
	}
	return nil
}

// results are those of the targets, in their order.
func (s *session) results() []Result {
	results := make([]Result, len(s.tops))
	failed := false
	for i, t := range s.tops {
		results[i] = t.goal.toResult(t.target, s.skipIDs)
		failed = failed || !results[i].Status.OK()
		if s.keep != nil {
			for _, out := range results[i].Outputs {
				s.keep.Add(out.Path)
			}
			if !t.target.Path.IsZero() && results[i].Status.OK() {
				s.keep.Add(t.target.Path)
			}
		}
	}
	for i := range results {
		switch {
		case s.exit != 0:
			results[i].ExitStatus = s.exit
		case failed:
			results[i].ExitStatus = exitAny
		}
	}
	return results
}

// report tells the sink of progress, if there was any.
func (s *session) report() {
	now := [2]progress{s.builds, s.fetched}
	if now == s.reported {
		return
	}
	s.reported = now
	s.acts.progress(s.sink, s.builds, s.fetched)
}

// activities are those of a request as a whole.
type activities struct{ realise, builds, copies uint64 }

func (a *activities) start(sink Sink) {
	a.realise = sink.StartActivity(LevelError, ActRealise, "", nil, 0)
	a.builds = sink.StartActivity(LevelError, ActBuilds, "", nil, 0)
	a.copies = sink.StartActivity(LevelError, ActCopyPaths, "", nil, 0)
}

func (a *activities) stop(sink Sink) {
	sink.StopActivity(a.copies)
	sink.StopActivity(a.builds)
	sink.StopActivity(a.realise)
}

func (a *activities) progress(sink Sink, builds, copies progress) {
	fields := func(p progress) []any { return []any{p.done, p.expected + p.done, p.running, p.failed} }
	sink.Result(a.builds, ResProgress, fields(builds))
	sink.Result(a.copies, ResProgress, fields(copies))
}

// sortedInputs are a derivation's input derivations in the order in which they
// are built when nothing else decides: by name.
func sortedInputs(drv *derivation.Derivation) []storepath.Path {
	paths := make([]storepath.Path, 0, len(drv.InputDrvs))
	for p := range drv.InputDrvs {
		paths = append(paths, p)
	}
	slices.SortFunc(paths, func(a, b storepath.Path) int {
		if a.Name() != b.Name() {
			if a.Name() < b.Name() {
				return -1
			}
			return 1
		}
		return a.Compare(b)
	})
	return paths
}
