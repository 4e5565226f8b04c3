package workerprotocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// DrvOutput names an output of a derivation. With FeatureRealisationWithPath Drv is used, without
// it Hash; the other one is not sent.
type DrvOutput struct {
	// Drv is the derivation.
	Drv storepath.Path
	// Hash is the hash of the derivation modulo its inputs. Without the feature, the zero value
	// is sent as a hash of zeros, which stands for "not known".
	Hash nixhash.Hash
	// Output is the output's name.
	Output string
}

// unknownDrvHash is what Nix writes where an old client expects a hash that Nix no longer has.
var unknownDrvHash = func() nixhash.Hash {
	h, err := nixhash.FromBytes(nixhash.SHA256, make([]byte, nixhash.SHA256.Size()))
	if err != nil {
		panic(err)
	}
	return h
}()

// String is the form without the feature, "sha256:<hex>!<output>".
func (o DrvOutput) String() string {
	h := o.Hash
	if h.IsZero() {
		h = unknownDrvHash
	}
	return h.Hex() + "!" + o.Output
}

// ParseDrvOutput reads what String writes.
func ParseDrvOutput(s string) (DrvOutput, error) {
	hash, output, ok := strings.Cut(s, "!")
	if !ok {
		return DrvOutput{}, fmt.Errorf("invalid derivation output id '%s'", s)
	}
	h, err := nixhash.Parse(hash, 0)
	if err != nil {
		return DrvOutput{}, err
	}
	if h == unknownDrvHash {
		h = nixhash.Hash{}
	}
	return DrvOutput{Hash: h, Output: output}, nil
}

// check tells why the output cannot be named in p.
func (o *DrvOutput) check(p Protocol) error {
	if p.Features.Has(FeatureRealisationWithPath) && o.Drv.IsZero() {
		return errNotExpressible("an output named by a derivation's hash", p, "the path of the derivation is needed")
	}
	return nil
}

func (o *DrvOutput) code(c *coder) {
	if c.Features.Has(FeatureRealisationWithPath) {
		c.path("derivation path", &o.Drv)
		c.string("output name", &o.Output)
		return
	}
	s := ""
	if !c.reading() {
		s = o.String()
	}
	c.string("derivation output", &s)
	if c.reading() && c.r.err == nil {
		id, err := ParseDrvOutput(s)
		c.r.reject(err)
		*o = id
	}
}

// Realisation tells at which path an output of a derivation is.
type Realisation struct {
	ID      DrvOutput
	OutPath storepath.Path
	// Signatures have the form "key:base64".
	Signatures []string
	// SignatureObjects tells that in JSON each signature is an object with a key's name and a
	// signature instead of a string, as some Nix releases have it. Both forms are read.
	SignatureObjects bool
	// Dependencies are the realisations that this one was made with. They are not sent with
	// FeatureRealisationWithPath, nor before 1.31.
	Dependencies map[DrvOutput]storepath.Path
}

// realisationJSON has its fields in the order in which Nix writes them.
type realisationJSON struct {
	Dependencies map[string]string `json:"dependentRealisations"`
	ID           string            `json:"id"`
	OutPath      string            `json:"outPath"`
	Signatures   signaturesJSON    `json:"signatures"`
}

// signaturesJSON is a list of signatures in either form.
type signaturesJSON struct {
	list    []string
	objects bool
}

type signatureObject struct {
	KeyName string `json:"keyName"`
	Sig     string `json:"sig"`
}

func (s signaturesJSON) MarshalJSON() ([]byte, error) {
	if !s.objects {
		return json.Marshal(append([]string{}, s.list...))
	}
	objects := make([]signatureObject, len(s.list))
	for i, sig := range s.list {
		objects[i].KeyName, objects[i].Sig, _ = strings.Cut(sig, ":")
	}
	return json.Marshal(objects)
}

func (s *signaturesJSON) UnmarshalJSON(data []byte) error {
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	for i, r := range raw {
		var sig string
		if err := json.Unmarshal(r, &sig); err != nil {
			var o signatureObject
			if err := json.Unmarshal(r, &o); err != nil {
				return err
			}
			sig, s.objects = o.KeyName+":"+o.Sig, true
		} else if s.objects && i > 0 {
			return errors.New("signatures are strings and objects")
		}
		s.list = append(s.list, sig)
	}
	return nil
}

// bareRealisationJSON is what newer Nix writes for old clients when the hash is not known.
type bareRealisationJSON struct {
	ID      string `json:"id"`
	OutPath string `json:"outPath"`
}

// MarshalJSON writes the JSON form of the wire: compact, keys sorted. The ID is in the form with
// the hash.
func (r Realisation) MarshalJSON() ([]byte, error) {
	var v any = bareRealisationJSON{r.ID.String(), r.OutPath.Base()}
	if !r.ID.Hash.IsZero() || len(r.Signatures) > 0 || len(r.Dependencies) > 0 {
		full := realisationJSON{
			Dependencies: map[string]string{}, ID: r.ID.String(), OutPath: r.OutPath.Base(),
			Signatures: signaturesJSON{r.Signatures, r.SignatureObjects},
		}
		for id, path := range r.Dependencies {
			full.Dependencies[id.String()] = path.Base()
		}
		v = full
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// UnmarshalJSON reads the JSON form of the wire.
func (r *Realisation) UnmarshalJSON(data []byte) error {
	var v realisationJSON
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("parse realisation: %w", err)
	}
	id, err := ParseDrvOutput(v.ID)
	if err != nil {
		return err
	}
	path, err := storepath.ParseBase(v.OutPath)
	if err != nil {
		return err
	}
	*r = Realisation{ID: id, OutPath: path, Signatures: v.Signatures.list, SignatureObjects: v.Signatures.objects}
	for key, base := range v.Dependencies {
		id, err := ParseDrvOutput(key)
		if err != nil {
			return err
		}
		path, err := storepath.ParseBase(base)
		if err != nil {
			return err
		}
		if r.Dependencies == nil {
			r.Dependencies = make(map[DrvOutput]storepath.Path, len(v.Dependencies))
		}
		r.Dependencies[id] = path
	}
	return nil
}

// check tells why the realisation cannot be sent in p.
func (r *Realisation) check(p Protocol) error { return r.ID.check(p) }

func (r *Realisation) code(c *coder) {
	if c.Features.Has(FeatureRealisationWithPath) {
		r.ID.code(c)
		r.codeUnkeyed(c)
		return
	}
	c.realisationJSON(r)
}

// codeUnkeyed moves the form of FeatureRealisationWithPath but for the ID.
func (r *Realisation) codeUnkeyed(c *coder) {
	c.path("output path", &r.OutPath)
	c.stringList("signatures", &r.Signatures)
}

func (c *coder) realisationJSON(r *Realisation) {
	var s string
	if !c.reading() {
		b, err := r.MarshalJSON()
		if err != nil { // strings, which always can be encoded
			panic(err)
		}
		s = string(b)
	}
	c.text("realisation", &s)
	if c.reading() && c.r.err == nil {
		*r = Realisation{}
		c.r.reject(r.UnmarshalJSON([]byte(s)))
	}
}

// builtOutputs moves a map of outputs to realisations: by output name with the feature, else by
// ID with JSON. It is read with the names of the outputs as keys.
func (c *coder) builtOutputs(v *map[string]Realisation) {
	if c.Features.Has(FeatureRealisationWithPath) {
		dict(c, "built outputs", v, func(c *coder, r *Realisation) { r.codeUnkeyed(c) })
		for name, r := range *v {
			if c.reading() {
				r.ID.Output = name
				(*v)[name] = r
			}
		}
		return
	}
	byID := make(map[string]Realisation, len(*v))
	if !c.reading() {
		for _, name := range slices.Sorted(maps.Keys(*v)) {
			r := (*v)[name]
			r.ID.Output = name
			byID[r.ID.String()] = r
		}
	}
	dict(c, "built outputs", &byID, func(c *coder, r *Realisation) { c.realisationJSON(r) })
	if !c.reading() {
		return
	}
	*v = nil
	for _, key := range slices.Sorted(maps.Keys(byID)) {
		id, err := ParseDrvOutput(key)
		if err != nil {
			c.r.reject(err)
			continue
		}
		if *v == nil {
			*v = make(map[string]Realisation, len(byID))
		}
		(*v)[id.Output] = byID[key]
	}
}
