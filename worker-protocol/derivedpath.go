package workerprotocol

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/storepath"
)

// DerivedPath names what a client wants: a store path as it is (opaque), or outputs of a
// derivation (built). The derivation may itself be the output of another one (dynamic), in any
// depth.
//
// It is a string on the wire. The form since 1.30:
//
//	/nix/store/…-foo                     opaque, also for a derivation as a file
//	/nix/store/…-foo.drv!*               all outputs
//	/nix/store/…-foo.drv!dev,out         some outputs
//	/nix/store/…-foo.drv!out!*           all outputs of the derivation that output "out" is
//
// Earlier a derivation without outputs means all its outputs, and dynamic derivations cannot be
// named. "^" for "!" is read, too, as in newer command lines.
type DerivedPath struct {
	// Path is the opaque path, or the derivation from which everything starts.
	Path storepath.Path
	// Via are the outputs to follow from Path to the derivation that is meant; usually none.
	Via []string
	// All asks for all outputs. Outputs lists some, sorted. With neither the path is opaque.
	All     bool
	Outputs []string
}

// maxDynamicDepth bounds Via. Nix has no bound but its stack.
const maxDynamicDepth = 64

// Built reports whether outputs of a derivation are meant, not a path as it is.
func (d DerivedPath) Built() bool { return d.All || len(d.Outputs) > 0 }

// Equal reports whether d and o name the same.
func (d DerivedPath) Equal(o DerivedPath) bool {
	return d.Path == o.Path && d.All == o.All && slices.Equal(d.Via, o.Via) && slices.Equal(d.Outputs, o.Outputs)
}

// Format is the form of the wire since 1.30, with sep for "!".
func (d DerivedPath) Format(dir storepath.Dir, sep string) string {
	s := dir.Join(d.Path)
	for _, out := range d.Via {
		s += sep + out
	}
	switch {
	case d.All:
		s += sep + "*"
	case len(d.Outputs) > 0:
		s += sep + strings.Join(d.Outputs, ",")
	}
	return s
}

// ParseDerivedPath reads the form of the wire since 1.30, with "!" or "^".
func ParseDerivedPath(dir storepath.Dir, s string) (DerivedPath, error) {
	full, rest := s, ""
	i := strings.IndexAny(s, "!^")
	if i >= 0 {
		full, rest = s[:i], s[i+1:]
	}
	var d DerivedPath
	var err error
	if d.Path, err = dir.Parse(full); err != nil || i < 0 {
		return d, err
	}
	steps := strings.FieldsFunc(rest, func(r rune) bool { return r == '!' || r == '^' })
	if want := strings.Count(rest, "!") + strings.Count(rest, "^") + 1; len(steps) != want {
		return DerivedPath{}, fmt.Errorf("derived path '%s' has an empty output name", s)
	}
	if len(steps) > maxDynamicDepth {
		return DerivedPath{}, fmt.Errorf("derived path of '%s' is nested too deeply", full)
	}
	d.Via = steps[:len(steps)-1]
	if len(d.Via) == 0 {
		d.Via = nil
	}
	for _, via := range d.Via {
		if err := storepath.CheckName(via); err != nil {
			return DerivedPath{}, err
		}
	}
	return d, d.parseOutputs(steps[len(steps)-1])
}

// parseOutputs reads "*" or names with commas.
func (d *DerivedPath) parseOutputs(s string) error {
	if s == "*" {
		d.All = true
		return nil
	}
	d.Outputs = strings.Split(s, ",")
	slices.Sort(d.Outputs)
	d.Outputs = slices.Compact(d.Outputs)
	for _, out := range d.Outputs {
		if err := storepath.CheckName(out); err != nil {
			return err
		}
	}
	return nil
}

// parseOldDerivedPath reads the form before 1.30.
func parseOldDerivedPath(dir storepath.Dir, s string) (DerivedPath, error) {
	full, outputs, _ := strings.Cut(s, "!")
	d := DerivedPath{}
	var err error
	if d.Path, err = dir.Parse(full); err != nil {
		return d, err
	}
	// As in Nix, empty names between commas do not count.
	outputs = strings.Join(strings.FieldsFunc(outputs, func(r rune) bool { return r == ',' }), ",")
	if outputs == "" {
		d.All = d.Path.IsDerivation()
		return d, nil
	}
	if outputs == "*" {
		d.All = true
		return d, nil
	}
	return d, d.parseOutputs(outputs)
}

// check tells why the path cannot be named before 1.30.
func (d *DerivedPath) check(p Protocol) error {
	switch {
	case p.since(30):
		return nil
	case len(d.Via) > 0:
		return errNotExpressible("an output of a derivation that is itself an output", p, "the protocol is too old (< 1.30)")
	case d.All && !d.Path.IsDerivation():
		return errNotExpressible("all outputs of '"+d.Path.Base()+"', which is no derivation,", p, "the protocol is too old (< 1.30)")
	case !d.Built() && d.Path.IsDerivation():
		return errNotExpressible("derivation '"+d.Path.Base()+"' as a plain path", p, "the protocol is too old (< 1.30)")
	}
	return nil
}

func (d *DerivedPath) code(c *coder) {
	var s string
	switch {
	case c.reading():
	case c.since(30):
		s = d.Format(c.dir, "!")
	default:
		old := *d
		old.All = false // no outputs stand for all
		s = old.Format(c.dir, "!")
	}
	c.string("derived path", &s)
	if !c.reading() || c.r.err != nil {
		return
	}
	var err error
	if c.since(30) {
		*d, err = ParseDerivedPath(c.dir, s)
	} else {
		*d, err = parseOldDerivedPath(c.dir, s)
	}
	c.r.reject(err)
}

func (c *coder) derivedPaths(what string, v *[]DerivedPath) {
	list(c, what, v, func(c *coder, d *DerivedPath) { d.code(c) })
}

func checkDerivedPaths(paths []DerivedPath, p Protocol) error {
	for i := range paths {
		if err := paths[i].check(p); err != nil {
			return err
		}
	}
	return nil
}

// SingleDerivedPath names one store object: a path, or one output of a derivation that may itself
// be an output.
type SingleDerivedPath struct {
	// Path is the object when Via is empty, else the derivation from which everything starts.
	Path storepath.Path
	// Via are the outputs to follow from Path on.
	Via []string
}

// code writes a 1 for every output to follow, a 0, the path, and the outputs from the innermost
// to the outermost.
func (d *SingleDerivedPath) code(c *coder) {
	if c.reading() {
		d.Via = nil
		for c.optional("tag of a derived path", false) {
			if len(d.Via) == maxDynamicDepth {
				c.r.fail("derived path", "it is nested more than %d deep", maxDynamicDepth)
				return
			}
			d.Via = append(d.Via, "")
		}
	} else {
		for range d.Via {
			c.w.Uint64(1)
		}
		c.w.Uint64(0)
	}
	c.path("path", &d.Path)
	for i := range d.Via {
		c.string("output name", &d.Via[i])
	}
}
