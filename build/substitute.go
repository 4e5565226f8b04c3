package build

import (
	"context"

	"github.com/tvixd/tvixd/storepath"
)

// maxFetches is how many paths are fetched at once.
const maxFetches = 16

// pathGoal is the goal of a path that is wanted as it is.
func (s *session) pathGoal(path storepath.Path) *goal {
	if g := s.pathGoals[path]; g != nil {
		return g
	}
	g := &goal{s: s, path: path, mode: s.mode}
	s.pathGoals[path] = g
	s.fetched.expected++
	s.schedule(g, (*goal).beginPath)
	return g
}

// beginPath looks whether the path is valid, and else asks where it may be.
func (g *goal) beginPath() error {
	s := g.s
	s.lease.Add(g.path)
	valid, err := s.b.store.PathInfo().Valid(s.ctx, []storepath.Path{g.path})
	if err != nil {
		return err
	}
	if len(valid) == 1 {
		s.finish(g, outcome{status: AlreadyValid})
		return nil
	}
	if s.b.subst == nil || !s.settings.UseSubstitute {
		g.unsubstitutable()
		return nil
	}
	g.over = func(g *goal, o outcome) {
		switch {
		case o.noSubstitute:
			g.unsubstitutable()
		case !o.status.OK():
			s.finish(g, o)
		default:
			s.schedule(g, (*goal).awaitReferences)
		}
	}
	return s.b.start(func() { g.query(s.ctx) })
}

// unsubstitutable ends a goal whose path nobody has.
func (g *goal) unsubstitutable() {
	g.s.finish(g, outcome{
		status:       NoSubstituters,
		noSubstitute: true,
		msg: failf(NoSubstituters, "path '%s' is required, but there is no substituter that can build it",
			g.s.b.dir.Join(g.path)).Msg,
	})
}

// query runs beside the session, which waits for the event.
func (g *goal) query(ctx context.Context) {
	found, err := g.s.b.subst.Query(ctx, []storepath.Path{g.path})
	o := outcome{status: Substituted}
	if err != nil {
		o = outcome{status: TransientFailure, msg: err.Error()}
	} else if sub, ok := found[g.path]; ok {
		g.substitute = sub
	} else {
		o = outcome{status: NoSubstituters, noSubstitute: true}
	}
	g.s.notify(event{goal: g, result: o})
}

// awaitReferences makes what the path refers to come first.
func (g *goal) awaitReferences() error {
	var goals []*goal
	for _, ref := range g.substitute.References {
		if ref != g.path {
			goals = append(goals, g.s.pathGoal(ref))
		}
	}
	return g.s.await(g, goals, (*goal).referencesDone)
}

func (g *goal) referencesDone() error {
	s := g.s
	if g.failed > 0 {
		o := outcome{status: DependencyFailed, noSubstitute: g.unavailable > 0}
		o.msg = failf(DependencyFailed, "some references of path '%s' could not be realised", s.b.dir.Join(g.path)).Msg
		s.finish(g, o)
		return nil
	}
	g.over = func(g *goal, o outcome) { s.finish(g, o) }
	return s.b.fetch(g)
}

// fetch is a path that is being fetched, for all sessions that want it.
type fetch struct {
	goals  []*goal // guarded by Builder.mu
	cancel context.CancelFunc
}

// fetch begins to fetch a goal's path, or joins whoever does.
func (b *Builder) fetch(g *goal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if f := b.fetches[g.path]; f != nil {
		f.goals = append(f.goals, g)
		return nil
	}
	ctx, cancel := context.WithCancel(b.ctx)
	f := &fetch{goals: []*goal{g}, cancel: cancel}
	b.fetches[g.path] = f
	lease := b.store.NewLease()
	path, sink, refs, source := g.path, g.s.sink, g.substitute.References, g.substitute.Source
	b.tasks.Go(func() {
		defer cancel()
		defer lease.Release()
		lease.Add(path)
		lease.Add(refs...)
		o := b.runFetch(ctx, path, source, sink, func() { b.fetchEvent(f, event{started: true}) })
		b.mu.Lock()
		if b.fetches[path] == f {
			delete(b.fetches, path)
		}
		b.mu.Unlock()
		b.fetchEvent(f, event{result: o})
	})
	return nil
}

func (b *Builder) fetchEvent(f *fetch, e event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range f.goals {
		e.goal = g
		g.s.notify(e)
	}
}

// runFetch fetches one path when its turn comes.
func (b *Builder) runFetch(ctx context.Context, path storepath.Path, source string, sink Sink, started func()) outcome {
	select {
	case b.fetchSlots <- struct{}{}:
		defer func() { <-b.fetchSlots }()
	case <-ctx.Done():
		return outcome{status: TransientFailure, msg: ctx.Err().Error()}
	}
	started()
	act := sink.StartActivity(LevelInfo, ActSubstitute, "", []any{b.dir.Join(path), source}, 0)
	defer sink.StopActivity(act)
	if err := b.subst.Fetch(ctx, path, sink); err != nil {
		return outcome{status: TransientFailure, msg: err.Error()}
	}
	return outcome{status: Substituted}
}

// leaveFetches ends the fetches that only a session's goals wanted.
func (b *Builder) leaveFetches(s *session) {
	for path := range s.pathGoals {
		f := b.fetches[path]
		if f == nil {
			continue
		}
		kept := f.goals[:0]
		for _, g := range f.goals {
			if g.s != s {
				kept = append(kept, g)
			}
		}
		f.goals = kept
		if len(kept) == 0 {
			f.cancel()
			delete(b.fetches, path)
		}
	}
}
