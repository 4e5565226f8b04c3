package disk

import (
	"context"
	"fmt"
)

// syncRound is a synchronisation that is still to begin; whoever joins it is
// covered by it.
type syncRound struct {
	done chan struct{}
	err  error // read after done
}

// Sync implements [castore.Keeper].
func (s *Store) Sync(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if err := s.sync(ctx); err != nil {
		return fmt.Errorf("sync castore: %w", err)
	}
	return nil
}

// sync joins the next round, or leads it if nobody does.
func (s *Store) sync(ctx context.Context) error {
	s.mu.Lock()
	r := s.nextRound
	if r == nil {
		r = &syncRound{done: make(chan struct{})}
		s.nextRound = r
		s.mu.Unlock()
		s.lead(ctx, r)
		return r.err
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lead runs a round after the one that is running. Others may join until it
// begins. The context does not end it, for others depend on it.
func (s *Store) lead(ctx context.Context, r *syncRound) {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.mu.Lock()
	s.nextRound = nil
	s.mu.Unlock()
	r.err = s.synchronise(context.WithoutCancel(ctx))
	close(r.done)
}

// synchronise makes everything durable that is pending now. The caller holds
// syncMu, or is alone.
func (s *Store) synchronise(ctx context.Context) error {
	s.mu.Lock()
	open := s.sealOpen()
	s.mu.Unlock()
	s.submit(open)
	s.awaitInflight()
	// What is in the packs comes first: on a full disk a sweep can only give
	// back the space of what the index knows.
	if err := s.commitAppended(ctx); err != nil {
		return err
	}
	if !s.isStuck() {
		return nil
	}
	if err := s.retryStuck(); err != nil {
		return err
	}
	return s.commitAppended(ctx)
}

// awaitInflight waits until the blocks that are sealed now are appended or stuck.
func (s *Store) awaitInflight() {
	s.mu.Lock()
	waits := make([]*pendingBlock, 0, len(s.inflight))
	for b := range s.inflight {
		waits = append(waits, b)
	}
	s.mu.Unlock()
	for _, b := range waits {
		<-b.done
	}
}

func (s *Store) isStuck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.stuck) > 0
}

// commitAppended makes the packs durable and commits the index rows of what was
// appended to them. The caller holds syncMu, or is alone.
func (s *Store) commitAppended(ctx context.Context) error {
	batch, batchN := s.takeUnsynced()
	if len(batch) == 0 {
		return nil
	}
	ends, err := s.append.sync()
	if err == nil {
		if err = s.index.commit(ctx, ends, batch); err == nil {
			s.append.settle(ends)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		// The packs have the data: only the index is missing, and the next
		// round tries again.
		s.unsynced = append(batch, s.unsynced...)
		s.unsyncedN += batchN
		return err
	}
	for _, b := range batch {
		for i := range b.table {
			d := b.table[i].digest
			if s.pending[d].block == b {
				delete(s.pending, d)
				s.pendingN.Add(-1)
			}
		}
	}
	return nil
}

// takeUnsynced returns the blocks that are to be committed next. While blocks are
// stuck, recipes wait: the index must not know a large blob before its chunks.
func (s *Store) takeUnsynced() (batch []*pendingBlock, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var wait []*pendingBlock
	var waitN int64
	for _, b := range s.unsynced {
		if b.kind == KindRecipe && len(s.stuck) > 0 {
			wait = append(wait, b)
			waitN += int64(b.rawLen)
			continue
		}
		batch = append(batch, b)
		bytes += int64(b.rawLen)
	}
	s.unsynced, s.unsyncedN = wait, waitN
	return batch, bytes
}

// flushLoop bounds what waits for a Sync.
func (s *Store) flushLoop() {
	defer s.workers.Done()
	for {
		select {
		case <-s.flush:
			if err := s.sync(context.Background()); err != nil {
				// Nobody was promised anything yet; Sync will say it again.
				s.log.Warn("background sync failed", "err", err)
			}
		case <-s.stop:
			return
		}
	}
}
