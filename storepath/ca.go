package storepath

import (
	"strings"

	"github.com/tvixd/tvixd/nixhash"
)

// Method says how contents become the bytes that a content address hashes. The
// zero value is none.
type Method uint8

const (
	// Text is a plain file that may refer to others, such as a derivation.
	Text Method = iota + 1
	// Flat is a plain file by its bytes.
	Flat
	// NAR is a tree by its archive. Nix calls it recursive, too.
	NAR
	// Git is a tree by git's hashing of blobs and trees.
	Git
)

var methods = [...]struct{ name, prefix, modern string }{
	Text: {"text", "text:", "text:"},
	Flat: {"flat", "", "fixed:"},
	NAR:  {"nar", "r:", "fixed:r:"},
	Git:  {"git", "git:", "fixed:git:"},
}

func (m Method) valid() bool { return m >= Text && m <= Git }

// String is "text", "flat", "nar" or "git".
func (m Method) String() string {
	if !m.valid() {
		return ""
	}
	return methods[m].name
}

// Prefix is what stands before the algorithm in a derivation's output: "text:", "", "r:" or "git:".
func (m Method) Prefix() string {
	if !m.valid() {
		return ""
	}
	return methods[m].prefix
}

// WithAlgo is the form of the worker protocol and of content addresses:
// "text:sha256", "fixed:sha256", "fixed:r:sha256", "fixed:git:sha1".
func (m Method) WithAlgo(a nixhash.Algo) string {
	if !m.valid() {
		return ""
	}
	return methods[m].modern + a.String()
}

// ParseMethodAlgo reads what WithAlgo writes.
func ParseMethodAlgo(s string) (Method, nixhash.Algo, error) {
	m, a, rest, err := cutMethodAlgo(s + ":")
	if err != nil {
		return 0, 0, err
	}
	if rest != "" {
		return 0, 0, badPath("content address method '%s' has something after its hash algorithm", s)
	}
	return m, a, nil
}

// ParsePrefixedAlgo reads the form of derivations: Prefix before an algorithm, "r:sha256".
func ParsePrefixedAlgo(s string) (Method, nixhash.Algo, error) {
	m, rest := cutPrefix(s)
	a, err := nixhash.ParseAlgo(rest)
	if err != nil {
		return 0, 0, err
	}
	return m, a, nil
}

func cutPrefix(s string) (Method, string) {
	for _, m := range []Method{NAR, Git, Text} {
		if rest, ok := strings.CutPrefix(s, m.Prefix()); ok {
			return m, rest
		}
	}
	return Flat, s
}

// ContentAddress names contents: a method and the hash of what it yields. It
// can be compared with ==; the zero value is none.
type ContentAddress struct {
	Method Method
	Hash   nixhash.Hash
}

// IsZero reports whether c is none.
func (c ContentAddress) IsZero() bool { return c.Hash.IsZero() || !c.Method.valid() }

// String is "fixed:r:sha256:<nix32>" and the like, or "" for none.
func (c ContentAddress) String() string {
	if c.IsZero() {
		return ""
	}
	return c.Method.WithAlgo(c.Hash.Algo) + ":" + c.Hash.Nix32()
}

// ParseContentAddress reads what String writes; "" is none. The digest may be in base16 or base64, too.
func ParseContentAddress(s string) (ContentAddress, error) {
	if s == "" {
		return ContentAddress{}, nil
	}
	m, a, digest, err := cutMethodAlgo(s)
	if err != nil {
		return ContentAddress{}, err
	}
	h, err := nixhash.ParseDigest(digest, a)
	if err != nil {
		return ContentAddress{}, err
	}
	return ContentAddress{m, h}, nil
}

// cutMethodAlgo splits "fixed:r:sha256:rest".
func cutMethodAlgo(s string) (m Method, a nixhash.Algo, rest string, err error) {
	prefix, rest, found := strings.Cut(s, ":")
	if !found {
		return 0, 0, "", badPath("not a content address because it is not in the form '<prefix>:<rest>': %s", s)
	}
	switch prefix {
	case "text":
		m = Text
	case "fixed":
		m = Flat
		for _, prefixed := range []Method{NAR, Git} {
			if after, ok := strings.CutPrefix(rest, prefixed.Prefix()); ok {
				m, rest = prefixed, after
				break
			}
		}
	default:
		return 0, 0, "", badPath("content address prefix '%s' is unrecognized. Recogonized prefixes are 'text' or 'fixed'", prefix)
	}
	algo, rest, found := strings.Cut(rest, ":")
	if !found {
		return 0, 0, "", badPath("content address hash must be in form '<algo>:<hash>', but found: %s", s)
	}
	if a, err = nixhash.ParseAlgo(algo); err != nil {
		return 0, 0, "", err
	}
	return m, a, rest, nil
}
