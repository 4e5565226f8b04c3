package derivation

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// Resolver reads the derivation at a path.
type Resolver func(storepath.Path) (*Derivation, error)

// Modulo is a derivation's hash modulo its fixed outputs: two derivations that
// differ only in how they fetch the same contents have the same one.
type Modulo struct {
	// Hash is the SHA-256, the same for all outputs.
	Hash nixhash.Hash
	// Deferred says that the outputs' paths do not follow from Hash, because
	// an input is named by contents that are not known yet. Hash is then good
	// for naming realisations only.
	Deferred bool
	outputs  []string // sorted
}

const (
	// memoLimit is how many derivations a Hasher remembers, at some 200 bytes each.
	memoLimit = 1 << 18
	// parsedLimit is how many derivations of one chain are kept parsed.
	parsedLimit = 512
)

// Hasher computes hashes modulo fixed outputs. It remembers those of input
// derivations, which never change since a derivation's path names its text. It
// is safe for concurrent use.
type Hasher struct {
	dir storepath.Dir

	mu   sync.Mutex
	memo map[storepath.Path]Modulo // guarded by mu
}

// NewHasher makes a Hasher for derivations of one store folder.
func NewHasher(dir storepath.Dir) *Hasher {
	return &Hasher{dir: dir, memo: make(map[storepath.Path]Modulo)}
}

// HashModulo computes a derivation's hash from which its outputs' paths are
// made. Their own paths do not enter into it. All derivations below d that are
// not known yet are asked of resolve; chains may be as long as one likes.
func (h *Hasher) HashModulo(d *Derivation, resolve Resolver) (Modulo, error) {
	inputs := make(map[storepath.Path]Modulo, len(d.InputDrvs))
	for p := range d.InputDrvs {
		m, err := h.input(p, resolve)
		if err != nil {
			return Modulo{}, err
		}
		inputs[p] = m
	}
	return h.hash(d, inputs, true)
}

// frame is one derivation on the way down. drv is nil where a long chain made
// us drop it; it is read again then.
type frame struct {
	path storepath.Path
	drv  *Derivation
	// pending are inputs that were not looked at yet.
	pending []storepath.Path
}

// input is the hash of an input derivation, in which its outputs' paths do
// count. It goes down with a stack of its own, for chains longer than what a
// goroutine's stack may hold.
func (h *Hasher) input(path storepath.Path, resolve Resolver) (Modulo, error) {
	if m, ok := h.known(path); ok {
		return m, nil
	}
	// done has what this call found out, in case the memo is emptied meanwhile.
	done := make(map[storepath.Path]Modulo)
	active := make(map[storepath.Path]bool)
	var stack []frame
	push := func(p storepath.Path) error {
		if active[p] {
			return invalid("derivation '%s' depends on itself", h.dir.Join(p))
		}
		f, err := h.enter(p, resolve)
		active[p] = true
		stack = append(stack, f)
		if i := len(stack) - parsedLimit; i > 0 {
			stack[i-1].drv = nil
		}
		return err
	}
	if err := push(path); err != nil {
		return Modulo{}, err
	}
	for {
		top := &stack[len(stack)-1]
		if len(top.pending) > 0 {
			next := top.pending[0]
			top.pending = top.pending[1:]
			if _, ok := done[next]; ok {
				continue
			}
			if m, ok := h.known(next); ok {
				done[next] = m
				continue
			}
			if err := push(next); err != nil {
				return Modulo{}, err
			}
			continue
		}
		m, err := h.finish(*top, done, resolve)
		if err != nil {
			return Modulo{}, err
		}
		done[top.path] = m
		delete(active, top.path)
		if stack = stack[:len(stack)-1]; len(stack) == 0 {
			return m, nil
		}
	}
}

// enter reads a derivation and lists what must be hashed before it.
func (h *Hasher) enter(path storepath.Path, resolve Resolver) (frame, error) {
	d, err := read(path, resolve)
	if err != nil {
		return frame{}, err
	}
	f := frame{path: path, drv: d}
	if !d.IsFixed() {
		for p := range d.InputDrvs {
			f.pending = append(f.pending, p)
		}
	}
	return f, nil
}

// finish hashes a derivation whose inputs are all hashed.
func (h *Hasher) finish(f frame, done map[storepath.Path]Modulo, resolve Resolver) (Modulo, error) {
	if f.drv == nil {
		d, err := read(f.path, resolve)
		if err != nil {
			return Modulo{}, err
		}
		f.drv = d
	}
	m, err := h.hash(f.drv, done, false)
	if err != nil {
		return Modulo{}, fmt.Errorf("hash derivation '%s': %w", f.path, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.memo) >= memoLimit {
		clear(h.memo)
	}
	h.memo[f.path] = m
	return m, nil
}

func (h *Hasher) known(path storepath.Path) (Modulo, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.memo[path]
	return m, ok
}

func read(path storepath.Path, resolve Resolver) (*Derivation, error) {
	d, err := resolve(path)
	if err != nil {
		return nil, fmt.Errorf("read derivation '%s': %w", path, err)
	}
	return d, nil
}

// hash computes a derivation's hash, given those of its inputs.
func (h *Hasher) hash(d *Derivation, inputs map[storepath.Path]Modulo, mask bool) (Modulo, error) {
	kind, err := d.Type()
	if err != nil {
		return Modulo{}, err
	}
	m := Modulo{outputs: d.OutputNames(), Deferred: kind == Floating || kind == Impure}
	if kind == Fixed {
		o := d.Outputs["out"]
		path, methodAlgo, digest := o.Strings(h.dir)
		m.Hash = nixhash.Sum(nixhash.SHA256, []byte("fixed:out:"+methodAlgo+":"+digest+":"+path))
		return m, nil
	}
	hashed := make([]hashedInput, 0, len(d.InputDrvs))
	for p, in := range d.InputDrvs {
		im := inputs[p]
		if im.Deferred || len(in.Dynamic) > 0 {
			m.Deferred = true
		}
		for _, name := range in.Outputs {
			if _, ok := slices.BinarySearch(im.outputs, name); !ok {
				return Modulo{}, invalid("no hash for output '%s' of derivation '%s'", name, d.Name)
			}
		}
		if len(in.Outputs) > 0 {
			hashed = append(hashed, hashedInput{im.Hash.Base16(), in.Outputs})
		}
	}
	w := writer{dir: h.dir, b: make([]byte, 0, d.sizeHint())}
	w.derivation(d, mergeHashed(hashed), mask)
	m.Hash = nixhash.Sum(nixhash.SHA256, w.b)
	return m, nil
}

// mergeHashed sorts inputs by hash. Those that are the same modulo fixed
// outputs become one with the outputs of all.
func mergeHashed(inputs []hashedInput) []hashedInput {
	slices.SortFunc(inputs, func(a, b hashedInput) int { return cmp.Compare(a.hash, b.hash) })
	merged := inputs[:0]
	for _, in := range inputs {
		if last := len(merged) - 1; last >= 0 && merged[last].hash == in.hash {
			names := slices.Concat(merged[last].outputs, in.outputs)
			slices.Sort(names)
			merged[last].outputs = slices.Compact(names)
			continue
		}
		merged = append(merged, in)
	}
	return merged
}
