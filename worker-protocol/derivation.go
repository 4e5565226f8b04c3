package workerprotocol

import "github.com/tvixd/tvixd/storepath"

// BasicDerivation is a derivation as BuildDerivation sends it: without input derivations, all
// inputs being in InputSrcs. Its outputs are the raw strings of the ATerm form, whose meaning
// package derivation knows.
type BasicDerivation struct {
	// Outputs are by name.
	Outputs   map[string]BasicOutput
	InputSrcs []storepath.Path
	Platform  string
	Builder   string
	Args      []string
	Env       map[string]string
}

// BasicOutput is an output of a BasicDerivation.
type BasicOutput struct {
	// Path is a full store path or "".
	Path string
	// HashAlgo is "", or an algorithm that may have a prefix, such as "r:sha256".
	HashAlgo string
	// Hash is "", a digest in hexadecimal, or "impure".
	Hash string
}

func (o *BasicOutput) code(c *coder) {
	c.string("output path", &o.Path)
	c.string("output hash algorithm", &o.HashAlgo)
	c.string("output hash", &o.Hash)
}

func (d *BasicDerivation) code(c *coder) {
	dict(c, "outputs", &d.Outputs, func(c *coder, o *BasicOutput) { o.code(c) })
	c.paths("input sources", &d.InputSrcs)
	c.string("platform", &d.Platform)
	c.string("builder", &d.Builder)
	c.textList("arguments", &d.Args)
	dict(c, "environment", &d.Env, func(c *coder, v *string) { c.text("environment value", v) })
}
