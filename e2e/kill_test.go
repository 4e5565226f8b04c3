package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tvixd/tvixd/nar"
)

// killBudget is the time that the kill test takes when TVIXD_KILLS does not say
// how often to kill.
const killBudget = 75 * time.Second

// promise is a path that a client was told is valid, and that nothing may
// collect: it is rooted, or a connection holds it.
type promise struct {
	path, nhash string // of a build's result the hash is not known
	size        uint64
	link        string // the root, if there is one
	round       int    // the kill that came after it
}

// storm is what clients do while the daemon is killed.
type storm struct {
	w   *world
	rng *rand.Rand // for the main goroutine

	mu       sync.Mutex
	promises map[string]promise // by path; guarded by mu
	count    int                // names made so far; guarded by mu
	round    int                // kills so far; changed while no client works
}

// TestKills kills the daemon at random moments of adds, builds and collections.
// At each restart every path that was promised reads back with its NAR hash,
// and nothing half-written is shown.
func TestKills(t *testing.T) {
	isolated(t, func(t *testing.T) {
		if underTest() == "nix" {
			t.Skip("nix-daemon's children outlive it")
		}
		kills, end := 25, time.Now().Add(killBudget)
		if v := os.Getenv("TVIXD_KILLS"); v != "" {
			n, err := strconv.Atoi(v)
			must(t, err)
			kills, end = n, time.Now().Add(time.Hour)
		}
		seed := rand.Uint64()
		if v := os.Getenv("TVIXD_SEED"); v != "" {
			n, err := strconv.ParseUint(v, 10, 64)
			must(t, err)
			seed = n
		}
		w := newWorld(t)
		s := &storm{w: w, rng: rand.New(rand.NewPCG(seed, 1)), promises: make(map[string]promise)}
		w.start()
		checked := 0
		defer func() { t.Logf("seed %d: %d kills, %d promises read back", seed, s.round, checked) }()
		for s.round < kills && time.Now().Before(end) && !t.Failed() {
			s.rage(time.Duration(s.rng.IntN(400)) * time.Millisecond)
			s.round++
			w.start()
			checked += s.check()
			if s.round%5 == 0 {
				w.verify()
			}
			s.forget()
		}
		w.verify()
	})
}

// rage lets clients work for a while, kills the daemon, and waits until the
// clients have noticed.
func (s *storm) rage(span time.Duration) {
	s.w.t.Helper()
	var wg sync.WaitGroup
	for i := range 3 {
		seed := s.rng.Uint64()
		wg.Go(func() { s.adder(rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	wg.Go(s.collector)
	wg.Go(s.builder)
	time.Sleep(span)
	s.w.daemon.kill()
	wg.Wait()
}

func (s *storm) name(what string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	return fmt.Sprintf("%s-%d", what, s.count)
}

func (s *storm) promise(p promise) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.round = s.round
	s.promises[p.path] = p
}

func (s *storm) takeBack(paths []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range paths {
		if s.promises[p].link == "" {
			delete(s.promises, p)
		}
	}
}

// refused fails the test if err is an answer of the daemon; a connection may
// break.
func (s *storm) refused(what string, err error) {
	var said daemonError
	if errors.As(err, &said) {
		s.w.t.Errorf("%s: %v", what, err)
	}
}

// adder adds paths, a few over each connection, and roots some.
func (s *storm) adder(rng *rand.Rand) {
	for {
		c, err := s.w.tryDial(root)
		if err != nil {
			s.refused("connect", err)
			return
		}
		var held []string
		for range 1 + rng.IntN(8) {
			o := bare(anyPath(s.name("added")), randomTree(rng), held...)
			if err := c.ask(opAddToStoreNar, o.request(true), framed(o.nar)); err != nil {
				s.refused("add", err)
				c.close()
				return // with its promises, which the restarted daemon must keep
			}
			p := promise{path: o.path, nhash: o.nhash, size: o.size}
			s.promise(p)
			held = append(held, o.path)
			if rng.IntN(2) == 0 {
				p.link = filepath.Join("/nix/var/nix/gcroots", filepath.Base(o.path))
				if err := os.Symlink(o.path, p.link); err != nil {
					s.w.t.Error(err)
				}
				s.promise(p)
			}
		}
		s.takeBack(held)
		c.close()
	}
}

// randomTree is the NAR of a folder with files of all sizes, some of which are
// the same in all trees.
func randomTree(rng *rand.Rand) []byte {
	tokens := []string{"(", "type", "directory"}
	for i := range 1 + rng.IntN(6) {
		contents := bytes.Repeat([]byte{byte(rng.IntN(4))}, rng.IntN(100_000))
		switch rng.IntN(6) {
		case 0:
			contents = randomBytes(rng.IntN(1 << 21))
		case 1, 2:
			contents = randomBytes(rng.IntN(5000))
		}
		tokens = append(tokens, "entry", "(", "name", fmt.Sprintf("f%d", i),
			"node", "(", "type", "regular", "contents", string(contents), ")", ")")
	}
	return narOf(append(tokens, ")")...)
}

// collector collects garbage all the time.
func (s *storm) collector() {
	c, err := s.w.tryDial(root)
	for err == nil {
		_, err = c.collect(2)
	}
	s.refused("collect", err)
	if c != nil {
		c.close()
	}
}

// builder builds one derivation after the other; their results are rooted by
// their links.
func (s *storm) builder() {
	for {
		name := s.name("built")
		link := filepath.Join(s.w.home(nobody), name)
		r, err := s.w.attempt(nobody, fmt.Sprintf(`nix-build -o %s -E '(import %s/lib.nix).sh "%s" "b mkdir $out; echo %s > $out/file"'`,
			link, s.w.dir, name, name))
		if err != nil || r.code != 0 {
			return // whatever a client says when its daemon is killed
		}
		s.promise(promise{path: r.stdout, link: link})
	}
}

// check reads back all that was promised and looks at all that is shown. It
// returns the number of promises.
func (s *storm) check() int {
	t := s.w.t
	t.Helper()
	for _, p := range s.promises {
		if err := s.readBack(p); err != nil {
			t.Errorf("after kill %d, the promise %+v: %v", s.round, p, err)
		}
	}
	c := s.w.dial(root)
	defer c.close()
	shown, err := os.ReadDir(storeDir)
	must(t, err)
	for _, e := range shown {
		path := filepath.Join(storeDir, e.Name())
		hash, _, ok := c.query(path)
		if !ok {
			t.Errorf("%s is shown and not valid", path)
		} else if got, err := mountHash(path); err != nil || got != hash {
			t.Errorf("%s is shown with NAR hash %s, wanted %s: %v", path, got, hash, err)
		}
	}
	c.call(opQueryAllValidPaths)
	if n := len(c.strs()); n != len(shown) {
		t.Errorf("%d paths are valid and %d are shown", n, len(shown))
	}
	return len(s.promises)
}

// readBack checks what the daemon says of a promised path, and its contents.
func (s *storm) readBack(p promise) error {
	c, err := s.w.tryDial(root)
	if err != nil {
		return err
	}
	defer c.close()
	hash, size, ok := c.query(p.path)
	switch {
	case c.err != nil:
		return c.err
	case !ok:
		return errors.New("it is not valid")
	case p.nhash != "" && (hash != p.nhash || size != p.size):
		return fmt.Errorf("it is told with NAR hash %s and size %d", hash, size)
	}
	if got := c.narHash(p.path, size); c.err != nil || got != hash {
		return fmt.Errorf("it reads back with NAR hash %s: %v", got, c.err)
	}
	return nil
}

// mountHash is the NAR hash of a path as the mount shows it, base16.
func mountHash(path string) (string, error) {
	sum := sha256.New()
	err := nar.DumpPath(sum, path)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// forget takes back the promises of connections, which the kill has ended, and
// so many of the rooted ones that the checks stay short.
func (s *storm) forget() {
	rooted := 0
	for path, p := range s.promises {
		if p.link != "" {
			if rooted++; rooted <= 40 {
				continue
			}
			os.Remove(p.link)
		}
		delete(s.promises, path)
	}
}
