package derivation

import (
	"strings"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// Kind tells how an output gets its path. The package's description has a table.
type Kind uint8

// The kinds of outputs.
const (
	InputAddressed Kind = iota + 1
	Fixed
	Floating
	Deferred
	Impure
)

// String is the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case InputAddressed:
		return "input-addressed"
	case Fixed:
		return "fixed"
	case Floating:
		return "floating"
	case Deferred:
		return "deferred"
	case Impure:
		return "impure"
	}
	return "unknown"
}

// KnowsPaths reports whether the paths of such outputs are known before a build.
func (k Kind) KnowsPaths() bool { return k == InputAddressed || k == Fixed }

// Output is one output of a derivation. It can be compared with ==.
type Output struct {
	Kind Kind
	// Path is for InputAddressed and Fixed.
	Path storepath.Path
	// CA is for Fixed: what the contents must be.
	CA storepath.ContentAddress
	// Method and Algo are for Floating and Impure: how to name the contents.
	Method storepath.Method
	Algo   nixhash.Algo
}

// NewFixed makes a fixed output of a derivation. Its path follows from ca.
func NewFixed(dir storepath.Dir, drvName, output string, ca storepath.ContentAddress) (Output, error) {
	p, err := dir.FromContentAddress(storepath.OutputName(drvName, output), ca, storepath.References{})
	if err != nil {
		return Output{}, err
	}
	return Output{Kind: Fixed, Path: p, CA: ca}, nil
}

// ParseOutput makes an output of the three strings that stand for it in a
// derivation's text and in the worker protocol.
func ParseOutput(dir storepath.Dir, drvName, output, path, methodAlgo, hash string) (Output, error) {
	if methodAlgo == "" {
		if path == "" && hash == "" {
			return Output{Kind: Deferred}, nil
		}
		if hash != "" {
			return Output{}, invalid("output '%s' has a hash without an algorithm", output)
		}
		p, err := parsePath(dir, path)
		return Output{Kind: InputAddressed, Path: p}, err
	}
	method, algo, err := storepath.ParsePrefixedAlgo(methodAlgo)
	if err != nil {
		return Output{}, err
	}
	switch hash {
	case "impure":
		if path != "" {
			return Output{}, invalid("impure derivation output should not specify output path")
		}
		return Output{Kind: Impure, Method: method, Algo: algo}, nil
	case "":
		if path != "" {
			return Output{}, invalid("content-addressing derivation output should not specify output path")
		}
		return Output{Kind: Floating, Method: method, Algo: algo}, nil
	}
	return parseFixed(dir, drvName, output, path, method, algo, hash)
}

func parseFixed(dir storepath.Dir, drvName, output, path string, method storepath.Method, algo nixhash.Algo, hash string) (Output, error) {
	h, err := nixhash.ParseDigest(hash, algo)
	if err != nil {
		return Output{}, err
	}
	stated, err := parsePath(dir, path)
	if err != nil {
		return Output{}, err
	}
	o, err := NewFixed(dir, drvName, output, storepath.ContentAddress{Method: method, Hash: h})
	if err != nil {
		return Output{}, err
	}
	if stated != o.Path {
		return Output{}, invalid("fixed output '%s' has incorrect path '%s', should be '%s'", output, dir.Join(stated), dir.Join(o.Path))
	}
	return o, nil
}

// Strings is what ParseOutput reads.
func (o Output) Strings(dir storepath.Dir) (path, methodAlgo, hash string) {
	switch o.Kind {
	case InputAddressed:
		return dir.Join(o.Path), "", ""
	case Fixed:
		return dir.Join(o.Path), o.CA.Method.Prefix() + o.CA.Hash.Algo.String(), o.CA.Hash.Base16()
	case Floating:
		return "", o.Method.Prefix() + o.Algo.String(), ""
	case Impure:
		return "", o.Method.Prefix() + o.Algo.String(), "impure"
	}
	return "", "", ""
}

func parsePath(dir storepath.Dir, s string) (storepath.Path, error) {
	if s == "" || s[0] != '/' {
		return storepath.Path{}, invalid("bad path '%s' in derivation", s)
	}
	// A path may live much longer than the text that s is a part of.
	return dir.Parse(strings.Clone(s))
}
