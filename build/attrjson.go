package build

import (
	"encoding/json"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tvixd/tvixd/storepath"
)

// appendJSON writes a value as Nix writes structured attributes, so that a
// builder that hashes its attributes sees the same bytes: keys sorted, no
// white space, only what must be escaped.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case uint64:
		return strconv.AppendUint(b, v, 10)
	case json.Number:
		return appendNumber(b, v)
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, k), ':')
			b = appendJSON(b, v[k])
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			if c < 0x20 {
				b = append(b, `\u00`...)
				b = append(b, hex[c>>4], hex[c&15])
			} else {
				b = append(b, c)
			}
		}
	}
	return append(b, '"')
}

// isInteger reports whether a number is one for Nix: written without a
// fraction and exponent, and of 64 bits.
func isInteger(n json.Number) bool {
	if strings.ContainsAny(string(n), ".eE") {
		return false
	}
	if _, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return true
	}
	_, err := strconv.ParseUint(string(n), 10, 64)
	return err == nil
}

func appendNumber(b []byte, n json.Number) []byte {
	if isInteger(n) {
		if n == "-0" {
			n = "0"
		}
		return append(b, n...)
	}
	f, err := n.Float64()
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return append(b, "null"...)
	}
	return appendFloat(b, f)
}

// appendFloat writes the shortest digits that read back as f: plain ones with
// a point for what has at most 15 digits before it and not more than three
// zeros behind it, else with an exponent of two digits or more.
func appendFloat(b []byte, f float64) []byte {
	if f == 0 {
		if math.Signbit(f) {
			b = append(b, '-')
		}
		return append(b, "0.0"...)
	}
	sci := strconv.FormatFloat(f, 'e', -1, 64)
	mantissa, exponent, _ := strings.Cut(sci, "e")
	exp, _ := strconv.Atoi(exponent)
	if exp >= -4 && exp < 15 {
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return append(b, s...)
	}
	return append(append(append(b, mantissa...), 'e'), exponent...)
}

var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// shellAttrs are the attributes that a shell can have as variables: strings,
// integers, Booleans, nulls, and lists and sets of them.
func shellAttrs(attrs map[string]any) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		if !shellName.MatchString(key) {
			continue
		}
		if s, ok := shellValue(attrs[key]); ok {
			b.WriteString("declare " + key + "=" + s + "\n")
			continue
		}
		switch v := attrs[key].(type) {
		case []any:
			if s, ok := shellList(v); ok {
				b.WriteString("declare -a " + key + "=(" + s + ")\n")
			}
		case map[string]any:
			if s, ok := shellSet(v); ok {
				b.WriteString("declare -A " + key + "=(" + s + ")\n")
			}
		}
	}
	return b.String()
}

func shellList(list []any) (string, bool) {
	var b strings.Builder
	for _, e := range list {
		s, ok := shellValue(e)
		if !ok {
			return "", false
		}
		b.WriteString(s + " ")
	}
	return b.String(), true
}

func shellSet(set map[string]any) (string, bool) {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(set)) {
		s, ok := shellValue(set[k])
		if !ok {
			return "", false
		}
		b.WriteString("[" + shellQuote(k) + "]=" + s + " ")
	}
	return b.String(), true
}

// shellValue is a simple value as a shell reads it.
func shellValue(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "''", true
	case bool:
		if v {
			return "1", true
		}
		return "", true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case json.Number:
		if isInteger(v) {
			return string(v), true
		}
		f, err := v.Float64()
		if err != nil || math.Ceil(f) != f || math.Abs(f) > math.MaxInt32 {
			return "", false
		}
		return strconv.FormatInt(int64(f), 10), true
	case string:
		return shellQuote(v), true
	}
	return "", false
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// exportGraphJSON is the closure of some inputs with what is known of each
// path. Builders depend on these fields; there must never be others.
func (j *job) exportGraphJSON(v any, closure []storepath.Path) (any, error) {
	dir := j.b.dir
	list, ok := toStrings(v)
	if s, single := v.(string); single {
		list, ok = []string{s}, true
	}
	if !ok {
		return nil, failf(InputRejected, "attribute '%s' of derivation '%s' must be a list of strings",
			"exportReferencesGraph", j.drvPath)
	}
	var paths []storepath.Path
	for _, s := range list {
		p, err := dir.Parse(s)
		if err != nil {
			return nil, &Error{Status: InputRejected, Msg: err.Error()}
		}
		paths = append(paths, p)
	}
	all, err := j.exportedReferences(paths, closure)
	if err != nil {
		return nil, err
	}
	infos, err := j.b.store.PathInfo().GetMany(j.ctx, all)
	if err != nil {
		return nil, err
	}
	graph := make([]any, 0, len(infos))
	for _, info := range infos {
		if info == nil {
			continue
		}
		size, err := j.closureSize(info.Path)
		if err != nil {
			return nil, err
		}
		refs := make([]any, len(info.References))
		for i, ref := range info.References {
			refs[i] = dir.Join(ref)
		}
		object := map[string]any{
			"path": dir.Join(info.Path), "narHash": info.NarHash.String(), "narSize": info.NarSize,
			"references": refs, "closureSize": size,
		}
		if !info.CA.IsZero() {
			object["ca"] = info.CA.String()
		}
		graph = append(graph, object)
	}
	return graph, nil
}

// closureSize is the size of all NARs of a path's closure.
func (j *job) closureSize(p storepath.Path) (uint64, error) {
	closure, err := j.closure([]storepath.Path{p})
	if err != nil {
		return 0, err
	}
	infos, err := j.b.store.PathInfo().GetMany(j.ctx, closure)
	if err != nil {
		return 0, err
	}
	var size uint64
	for _, info := range infos {
		if info != nil {
			size += info.NarSize
		}
	}
	return size, nil
}
