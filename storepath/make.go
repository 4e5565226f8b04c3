package storepath

import (
	"crypto/sha256"

	"github.com/tvixd/tvixd/nixhash"
)

// References are the paths that a store object refers to, as they enter into
// its own path.
type References struct {
	// Others is any order and may hold repetitions; it is not changed.
	Others []Path
	// Self says that the object refers to itself.
	Self bool
}

// IsEmpty reports whether there are no references.
func (r References) IsEmpty() bool { return len(r.Others) == 0 && !r.Self }

// Make computes the path of an object of the given type and inner hash. It is
// the primitive under the other functions here.
func (d Dir) Make(typ string, inner nixhash.Hash, name string) (Path, error) {
	b := make([]byte, 0, 256)
	b = append(b, typ...)
	b = append(b, ':')
	b = append(b, inner.Hex()...)
	b = append(b, ':')
	b = append(b, d...)
	b = append(b, ':')
	b = append(b, name...)
	return New(compress(sha256.Sum256(b)), name)
}

// compress folds a SHA-256 to the size of a store path's digest by XOR.
func compress(sum [sha256.Size]byte) (digest [DigestSize]byte) {
	for i, c := range sum {
		digest[i%DigestSize] ^= c
	}
	return digest
}

// Text computes the path of a text, such as a derivation, from the SHA-256 of
// its contents.
func (d Dir) Text(name string, contents nixhash.Hash, refs []Path) (Path, error) {
	return d.FromContentAddress(name, ContentAddress{Text, contents}, References{Others: refs})
}

// FromContentAddress computes the path of an object that is named by its
// contents. It fails when the way of naming does not allow the references or
// the hash algorithm.
func (d Dir) FromContentAddress(name string, ca ContentAddress, refs References) (Path, error) {
	switch {
	case ca.IsZero():
		return Path{}, badPath("cannot make a store path for '%s' without a content address", name)
	case ca.Method == Text:
		if refs.Self {
			return Path{}, badPath("self-reference not allowed with text hashing")
		}
		if ca.Hash.Algo != nixhash.SHA256 {
			return Path{}, badPath("text hashing must use SHA-256 hash, but instead using: %s", ca.Hash.Algo)
		}
		return d.Make(d.withReferences("text", refs), ca.Hash, name)
	case ca.Method == Git && ca.Hash.Algo != nixhash.SHA1 && ca.Hash.Algo != nixhash.SHA256:
		return Path{}, badPath("Git file ingestion must use SHA-1 or SHA-256 hash, but instead using: %s", ca.Hash.Algo)
	case ca.Method == NAR && ca.Hash.Algo == nixhash.SHA256:
		return d.Make(d.withReferences("source", refs), ca.Hash, name)
	case !refs.IsEmpty():
		return Path{}, badPath("fixed output derivation '%s' is not allowed to refer to other store paths.\nYou may need to use the 'unsafeDiscardReferences' derivation attribute, see the manual for more details.", name)
	}
	inner := nixhash.Sum(nixhash.SHA256, []byte("fixed:out:"+ca.Method.Prefix()+ca.Hash.Hex()+":"))
	return d.Make("output:out", inner, name)
}

// withReferences writes references into an object's type, sorted as Nix sorts them.
func (d Dir) withReferences(typ string, refs References) string {
	others := SortUnique(append([]Path(nil), refs.Others...))
	b := []byte(typ)
	for _, p := range others {
		b = append(b, ':')
		b = d.AppendJoin(b, p)
	}
	if refs.Self {
		b = append(b, ":self"...)
	}
	return string(b)
}

// Output computes the path of a derivation's output that is named by the
// derivation: drvHash is the derivation's hash modulo its fixed outputs,
// output is the output's name and drvName the derivation's without ".drv".
func (d Dir) Output(drvHash nixhash.Hash, output, drvName string) (Path, error) {
	return d.Make("output:"+output, drvHash, OutputName(drvName, output))
}

// OutputName is the name in the store path of a derivation's output.
func OutputName(drvName, output string) string {
	if output == "out" {
		return drvName
	}
	return drvName + "-" + output
}
