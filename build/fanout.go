package build

import "sync"

// replayed is how many results of an activity those hear who come late, and
// replayedSize the size of those that are too large to remember.
const (
	replayed     = 256
	replayedSize = 2048
)

// fanout is a Sink that passes everything on to those that have joined. Who
// joins late hears of the activities that go on, and of their last results.
type fanout struct {
	mu   sync.Mutex
	next uint64          // guarded by mu
	subs map[any]*fanSub // guarded by mu
	live []*liveActivity // in the order of their beginning; guarded by mu
}

// fanSub is one who joined, with its numbers for our activities.
type fanSub struct {
	sink Sink
	ids  map[uint64]uint64
}

type liveActivity struct {
	id      uint64
	level   int
	typ     uint64
	text    string
	fields  []any
	parent  uint64
	results []liveResult // the last ones, as a ring that begins at first
	first   int
}

type liveResult struct {
	typ    uint64
	fields []any
}

var _ Sink = (*fanout)(nil)

func newFanout() *fanout { return &fanout{subs: make(map[any]*fanSub)} }

// join adds a sink under a key.
func (f *fanout) join(key any, sink Sink) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &fanSub{sink: sink, ids: make(map[uint64]uint64)}
	f.subs[key] = s
	for _, a := range f.live {
		s.start(a)
		for i := range a.results {
			r := a.results[(a.first+i)%len(a.results)]
			sink.Result(s.ids[a.id], r.typ, r.fields)
		}
	}
}

// leave takes a sink away, and reports how many are left.
func (f *fanout) leave(key any) (left int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.subs[key]; s != nil {
		for i := len(f.live) - 1; i >= 0; i-- {
			s.sink.StopActivity(s.ids[f.live[i].id])
		}
		delete(f.subs, key)
	}
	return len(f.subs)
}

func (s *fanSub) start(a *liveActivity) {
	s.ids[a.id] = s.sink.StartActivity(a.level, a.typ, a.text, a.fields, s.ids[a.parent])
}

// StartActivity implements Sink.
func (f *fanout) StartActivity(level int, typ uint64, text string, fields []any, parent uint64) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	a := &liveActivity{id: f.next, level: level, typ: typ, text: text, fields: fields, parent: parent}
	f.live = append(f.live, a)
	for _, s := range f.subs {
		s.start(a)
	}
	return a.id
}

// StopActivity implements Sink.
func (f *fanout) StopActivity(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, a := range f.live {
		if a.id == id {
			f.live = append(f.live[:i], f.live[i+1:]...)
			for _, s := range f.subs {
				s.sink.StopActivity(s.ids[id])
				delete(s.ids, id)
			}
			return
		}
	}
}

// Result implements Sink.
func (f *fanout) Result(id, typ uint64, fields []any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.live {
		if a.id == id {
			a.remember(liveResult{typ, fields})
			for _, s := range f.subs {
				s.sink.Result(s.ids[id], typ, fields)
			}
			return
		}
	}
}

func (a *liveActivity) remember(r liveResult) {
	for _, f := range r.fields {
		if s, ok := f.(string); ok && len(s) > replayedSize {
			return
		}
	}
	if len(a.results) < replayed {
		a.results = append(a.results, r)
		return
	}
	a.results[a.first] = r
	a.first = (a.first + 1) % replayed
}

// Log implements Sink.
func (f *fanout) Log(level int, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.subs {
		s.sink.Log(level, text)
	}
}
