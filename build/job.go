package build

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/store"
	"github.com/tvixd/tvixd/storepath"
)

// jobKey is what makes two jobs the same.
type jobKey struct {
	drvPath storepath.Path
	mode    Mode
}

// jobSpec is what is to be built, and how.
type jobSpec struct {
	drvPath  storepath.Path
	drv      *derivation.Derivation
	attrs    *attributes
	inputs   []storepath.Path // the direct ones, all valid
	mode     Mode
	settings Settings
	isolated bool
	name     string // what messages about limits call it
}

func (s *jobSpec) key() jobKey { return jobKey{s.drvPath, s.mode} }

// job is one build, for all sessions that need it.
type job struct {
	jobSpec
	b      *Builder
	fan    *fanout
	lease  *store.Lease
	ctx    context.Context
	cancel context.CancelFunc
	gone   chan struct{} // closed when nothing of the job is left

	goals   map[*session]*goal // that listen; guarded by Builder.mu
	started bool               // it has or had a slot; guarded by Builder.mu
	over    bool               // it takes no more listeners; guarded by Builder.mu
}

// request makes a goal listen to the job that spec describes, a new one if
// there is none.
func (b *Builder) request(g *goal, spec *jobSpec) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	j := b.jobs[spec.key()]
	if j == nil {
		j = &job{
			jobSpec: *spec, b: b, fan: newFanout(), lease: b.store.NewLease(),
			gone: make(chan struct{}), goals: make(map[*session]*goal),
		}
		j.ctx, j.cancel = context.WithCancel(b.ctx)
		b.jobs[spec.key()] = j
	}
	j.goals[g.s] = g
	j.fan.join(g.s, g.s.sink)
	g.job = j
	if j.started {
		g.s.notify(event{goal: g, started: true})
		return nil
	}
	if len(g.s.queue) == 0 {
		b.queues = append(b.queues, g.s)
	}
	g.s.queue = append(g.s.queue, j)
	b.dispatch()
	return nil
}

// dispatch starts jobs while there are slots; the sessions take turns. The
// caller holds mu.
func (b *Builder) dispatch() {
	for refused := 0; refused < len(b.queues); {
		s := b.queues[0]
		b.queues = b.queues[1:]
		s.queue = slices.DeleteFunc(s.queue, func(j *job) bool { return j.started || j.over })
		if len(s.queue) == 0 {
			continue
		}
		b.queues = append(b.queues, s)
		i := slices.IndexFunc(s.queue, func(j *job) bool { return !b.inTheWay(j) })
		if i < 0 || b.running >= s.queue[i].settings.MaxJobs {
			refused++
			continue
		}
		refused = 0
		j := s.queue[i]
		b.running++
		for _, p := range j.outputs() {
			b.making[p] = true
		}
		j.started = true
		for _, g := range j.goals {
			g.s.notify(event{goal: g, started: true})
		}
		b.tasks.Go(j.run)
	}
}

// inTheWay tells whether another job is making an output of j: different
// derivations can have a fixed output in common. When it is done, j finds the
// output valid, or tries itself. The caller holds mu.
func (b *Builder) inTheWay(j *job) bool {
	return slices.ContainsFunc(j.outputs(), func(p storepath.Path) bool { return b.making[p] })
}

// outputs are the paths of the outputs, as far as they are known beforehand.
func (s *jobSpec) outputs() []storepath.Path {
	var paths []storepath.Path
	for _, out := range s.drv.Outputs {
		if !out.Path.IsZero() {
			paths = append(paths, out.Path)
		}
	}
	return paths
}

// run does the job and tells all who listen.
func (j *job) run() {
	b := j.b
	o := j.do()
	j.lease.Release()
	j.cancel()

	b.mu.Lock()
	defer b.mu.Unlock()
	j.end()
	b.running--
	for _, p := range j.outputs() {
		delete(b.making, p)
	}
	for s, g := range j.goals {
		e := event{goal: g, result: o}
		// A limit that was another client's is not this one's failure.
		if (o.status == TimedOut || o.status == LogLimitExceeded) && !sameLimits(&j.settings, s.settings) {
			e.result = outcome{retry: true}
		}
		j.fan.leave(s)
		s.notify(e)
	}
	close(j.gone)
	b.dispatch()
}

// end takes the job out of the builder's table. The caller holds Builder.mu.
func (j *job) end() {
	j.over = true
	if j.b.jobs[j.key()] == j {
		delete(j.b.jobs, j.key())
	}
}

func sameLimits(a, b *Settings) bool {
	return a.Timeout == b.Timeout && a.MaxSilentTime == b.MaxSilentTime && a.MaxLogSize == b.MaxLogSize
}

// leave ends a session's part in all jobs, and waits until those that nobody
// else listens to are gone.
func (b *Builder) leave(s *session) {
	b.mu.Lock()
	var wait []*job
	for _, g := range s.drvGoals {
		j := g.job
		if j == nil || j.over || j.goals[s] != g {
			continue
		}
		delete(j.goals, s)
		if j.fan.leave(s); len(j.goals) > 0 {
			continue
		}
		j.cancel()
		j.end()
		if j.started {
			wait = append(wait, j)
		} else {
			j.lease.Release()
		}
	}
	s.queue = nil
	b.leaveFetches(s)
	b.mu.Unlock()
	for _, j := range wait {
		<-j.gone
	}
}

// keepFailed reports whether anybody who listens wants the build folder of a
// failure.
func (j *job) keepFailed() bool {
	j.b.mu.Lock()
	defer j.b.mu.Unlock()
	for s := range j.goals {
		if s.settings.KeepFailed {
			return true
		}
	}
	return false
}

// do is the whole job, from a slot to an outcome.
func (j *job) do() outcome {
	start := time.Now()
	o, err := j.build()
	if err != nil {
		var e *Error
		switch {
		case errors.As(err, &e):
			o.status, o.msg, o.mismatch = e.Status, e.Msg, e.hashMismatch
		case j.ctx.Err() != nil:
			o.status, o.msg = MiscFailure, "interrupted by the user"
		default:
			o.status, o.msg = MiscFailure, err.Error()
		}
	}
	if o.built > 0 {
		o.start, o.stop = start, time.Now()
	}
	return o
}
