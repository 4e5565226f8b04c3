package derivation

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/storepath"
)

const (
	// dynamicVersion is the only version of the newer form.
	dynamicVersion = "xp-dyn-drv"
	// maxNesting bounds how deep dynamic inputs may lie in each other.
	maxNesting = 64
)

// Parse reads a derivation's text. name is the derivation's name without
// ".drv". The text must be one whole term with nothing behind it; lists may be
// in any order, but must not name an output, an input derivation or a variable
// twice. Memory and time are linear in the text. The result does not refer to aterm.
func Parse(dir storepath.Dir, name string, aterm []byte) (*Derivation, error) {
	p := parser{dir: dir, text: string(aterm)}
	p.rest = p.text
	d, err := p.derivation(name)
	if err != nil {
		return nil, fmt.Errorf("error parsing derivation '%s' at byte %d: %w", name, len(p.text)-len(p.rest), err)
	}
	return d, nil
}

// parser reads from the front of rest. Strings without escapes are parts of
// text, so that a derivation costs one allocation for nearly all of them.
type parser struct {
	dir     storepath.Dir
	text    string
	rest    string
	dynamic bool
}

func (p *parser) derivation(name string) (*Derivation, error) {
	d := &Derivation{Name: name}
	steps := []func(*Derivation) error{
		p.head, p.outputs, p.comma, p.inputDrvs, p.comma, p.inputSrcs, p.comma,
		func(d *Derivation) error { return p.str(&d.System) }, p.comma,
		func(d *Derivation) error { return p.str(&d.Builder) }, p.comma,
		func(d *Derivation) (err error) { d.Args, err = p.strs(); return err }, p.comma,
		p.env,
		func(*Derivation) error { return p.expect(")") },
	}
	for _, step := range steps {
		if err := step(d); err != nil {
			return nil, err
		}
	}
	if p.rest != "" {
		return nil, invalid("unexpected text behind the derivation")
	}
	return d, nil
}

func (p *parser) head(*Derivation) error {
	if p.accept("Derive(") {
		return nil
	}
	if !p.accept("DrvWithVersion(") {
		return invalid("derivation does not start with 'Derive' or 'DrvWithVersion'")
	}
	var version string
	if err := p.str(&version); err != nil {
		return err
	}
	if version != dynamicVersion {
		return invalid("Unknown derivation ATerm format version '%s'", version)
	}
	p.dynamic = true
	return p.expect(",")
}

func (p *parser) comma(*Derivation) error { return p.expect(",") }

func (p *parser) outputs(d *Derivation) error {
	d.Outputs = make(map[string]Output, 1)
	return p.list(func() error {
		var name, path, methodAlgo, hash string
		if err := p.tuple(&name, &path, &methodAlgo, &hash); err != nil {
			return err
		}
		if err := storepath.CheckName(name); err != nil {
			return invalid("bad output name in derivation: %v", err)
		}
		if _, twice := d.Outputs[name]; twice {
			return invalid("derivation has output '%s' twice", name)
		}
		o, err := ParseOutput(p.dir, d.Name, name, path, methodAlgo, hash)
		d.Outputs[strings.Clone(name)] = o // outlives the text in a Hasher
		return err
	})
}

func (p *parser) inputDrvs(d *Derivation) error {
	d.InputDrvs = make(map[storepath.Path]InputOutputs)
	return p.list(func() error {
		var full string
		if err := p.open(&full); err != nil {
			return err
		}
		path, err := parsePath(p.dir, full)
		if err != nil {
			return err
		}
		if _, twice := d.InputDrvs[path]; twice {
			return invalid("derivation has input derivation '%s' twice", full)
		}
		in, err := p.inputOutputs(0)
		if err != nil {
			return err
		}
		d.InputDrvs[path] = in
		return p.expect(")")
	})
}

// inputOutputs reads ["out"] or, in the newer form, (["out"],[("out",…)]).
func (p *parser) inputOutputs(depth int) (in InputOutputs, err error) {
	if !p.dynamic || !p.accept("(") {
		in.Outputs, err = p.names()
		return in, err
	}
	if depth >= maxNesting {
		return in, invalid("dynamic inputs are nested too deeply in derivation")
	}
	if in.Outputs, err = p.names(); err != nil {
		return in, err
	}
	if err := p.expect(","); err != nil {
		return in, err
	}
	err = p.list(func() error {
		var name string
		if err := p.open(&name); err != nil {
			return err
		}
		if _, twice := in.Dynamic[name]; twice {
			return invalid("derivation has dynamic input '%s' twice", name)
		}
		deeper, err := p.inputOutputs(depth + 1)
		if err != nil {
			return err
		}
		if in.Dynamic == nil {
			in.Dynamic = make(map[string]InputOutputs)
		}
		in.Dynamic[name] = deeper
		return p.expect(")")
	})
	if err != nil {
		return in, err
	}
	return in, p.expect(")")
}

func (p *parser) inputSrcs(d *Derivation) error {
	err := p.list(func() error {
		var full string
		if err := p.str(&full); err != nil {
			return err
		}
		path, err := parsePath(p.dir, full)
		if err != nil {
			return err
		}
		d.InputSrcs = append(d.InputSrcs, path)
		return nil
	})
	d.InputSrcs = storepath.SortUnique(d.InputSrcs)
	return err
}

func (p *parser) env(d *Derivation) error {
	d.Env = make(map[string]string)
	return p.list(func() error {
		var key, value string
		if err := p.tuple(&key, &value); err != nil {
			return err
		}
		if _, twice := d.Env[key]; twice {
			return invalid("derivation has environment variable '%s' twice", key)
		}
		d.Env[key] = value
		return nil
	})
}

// names reads a list of strings as a set.
func (p *parser) names() ([]string, error) {
	names, err := p.strs()
	slices.Sort(names)
	return slices.Compact(names), err
}

func (p *parser) strs() (list []string, err error) {
	err = p.list(func() error {
		var s string
		err := p.str(&s)
		list = append(list, s)
		return err
	})
	return list, err
}

// list reads "[", elements with "," between them, and "]".
func (p *parser) list(element func() error) error {
	if err := p.expect("["); err != nil {
		return err
	}
	if p.accept("]") {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if p.accept("]") {
			return nil
		}
		if err := p.expect(","); err != nil {
			return err
		}
	}
}

// tuple reads strings in parentheses.
func (p *parser) tuple(into ...*string) error {
	for i, s := range into {
		before := ","
		if i == 0 {
			before = "("
		}
		if err := p.expect(before); err != nil {
			return err
		}
		if err := p.str(s); err != nil {
			return err
		}
	}
	return p.expect(")")
}

// open reads a tuple's first string and the comma behind it.
func (p *parser) open(first *string) error {
	if err := p.expect("("); err != nil {
		return err
	}
	if err := p.str(first); err != nil {
		return err
	}
	return p.expect(",")
}

func (p *parser) accept(token string) bool {
	rest, ok := strings.CutPrefix(p.rest, token)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *parser) expect(token string) error {
	if !p.accept(token) {
		return invalid("expected string '%s'", token)
	}
	return nil
}

// str reads a quoted string.
func (p *parser) str(into *string) error {
	if err := p.expect(`"`); err != nil {
		return err
	}
	end := strings.IndexByte(p.rest, '"')
	if end < 0 {
		return invalid("unterminated string in derivation")
	}
	escape := strings.IndexByte(p.rest[:end], '\\')
	if escape < 0 {
		*into, p.rest = p.rest[:end], p.rest[end+1:]
		return nil
	}
	return p.escaped(into, escape)
}

// escaped reads the rest of a quoted string whose first backslash is at i.
func (p *parser) escaped(into *string, i int) error {
	b := make([]byte, 0, 2*i+64)
	b = append(b, p.rest[:i]...)
	for ; i < len(p.rest); i++ {
		c := p.rest[i]
		switch {
		case c == '"':
			*into, p.rest = string(b), p.rest[i+1:]
			return nil
		case c == '\\' && i+1 < len(p.rest):
			i++
			c = unescape(p.rest[i])
		}
		b = append(b, c)
	}
	return invalid("unterminated string in derivation")
}

func unescape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}
