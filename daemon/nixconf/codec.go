package nixconf

import (
	"encoding/json"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"
)

// A codec turns a setting's text into its value and back. join is nil for types to which
// nothing can be appended.
type codec[T any] struct {
	parse  func(name, text string) (T, error)
	format func(T) string
	join   func(old, added T) T
}

var boolean = codec[bool]{
	parse: func(name, text string) (bool, error) {
		switch text {
		case "true", "yes", "1":
			return true, nil
		case "false", "no", "0":
			return false, nil
		}
		//lint:ignore ST1005 Nix's text
		return false, fmt.Errorf("Boolean setting '%s' has invalid value '%s'", name, text)
	},
	format: strconv.FormatBool,
}

var integer = codec[uint64]{
	parse:  parseInteger,
	format: func(n uint64) string { return strconv.FormatUint(n, 10) },
}

// parseInteger reads a decimal number with an optional unit: K, M, G or T, powers of 1024.
func parseInteger(name, text string) (uint64, error) {
	invalid := fmt.Errorf("setting '%s' has invalid value '%s'", name, text)
	digits, shift := text, 0
	if text != "" {
		if unit := strings.IndexByte("KMGT", text[len(text)-1]&^0x20); unit >= 0 && text[len(text)-1] >= 'A' {
			digits, shift = text[:len(text)-1], 10*(unit+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n<<shift>>shift != n {
		return 0, invalid
	}
	return n << shift, nil
}

// jobs is a number, or auto for the number of processors.
func jobs(processors uint64) codec[uint64] {
	return codec[uint64]{
		parse: func(name, text string) (uint64, error) {
			if text == "auto" {
				return processors, nil
			}
			n, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return 0, fmt.Errorf("configuration setting '%s' should be 'auto' or an integer", name)
			}
			return n, nil
		},
		format: integer.format,
	}
}

// interval is a number of units; more of them than a Duration holds mean the longest one.
func interval(unit time.Duration) codec[time.Duration] {
	return codec[time.Duration]{
		parse: func(name, text string) (time.Duration, error) {
			n, err := parseInteger(name, text)
			if err != nil {
				return 0, err
			}
			if longest := uint64((1<<63 - 1) / unit); n > longest {
				n = longest
			}
			return time.Duration(n) * unit, nil
		},
		format: func(d time.Duration) string { return strconv.FormatInt(int64(d/unit), 10) },
	}
}

var text = codec[string]{
	parse:  func(_, text string) (string, error) { return text, nil },
	format: func(s string) string { return s },
}

// absolute is a path that may be left empty.
var absolute = codec[string]{
	parse: func(name, text string) (string, error) {
		if text == "" {
			return "", nil
		}
		if !path.IsAbs(text) {
			return "", fmt.Errorf("setting '%s': not an absolute path: '%s'", name, text)
		}
		return path.Clean(text), nil
	},
	format: text.format,
}

// required is a path that may not be left empty.
var required = codec[string]{
	parse: func(name, text string) (string, error) {
		if text == "" {
			return "", fmt.Errorf("setting '%s' is a path and paths cannot be empty", name)
		}
		return absolute.parse(name, text)
	},
	format: text.format,
}

// list keeps the order and repetitions.
var list = codec[[]string]{
	parse:  func(_, text string) ([]string, error) { return strings.Fields(text), nil },
	format: func(words []string) string { return strings.Join(words, " ") },
	join: func(old, added []string) []string {
		return append(append(make([]string, 0, len(old)+len(added)), old...), added...)
	},
}

// set is sorted and knows no repetitions.
var set = codec[[]string]{
	parse:  func(_, text string) ([]string, error) { return sortedSet(strings.Fields(text)), nil },
	format: list.format,
	join:   func(old, added []string) []string { return sortedSet(list.join(old, added)) },
}

func sortedSet(words []string) []string {
	sort.Strings(words)
	out := words[:0]
	for i, w := range words {
		if i == 0 || w != words[i-1] {
			out = append(out, w)
		}
	}
	return out
}

// dictionary is a list of name=value; words without "=" count for nothing.
var dictionary = codec[map[string]string]{
	parse: func(_, text string) (map[string]string, error) {
		m := map[string]string{}
		for _, word := range strings.Fields(text) {
			name, value, ok := strings.Cut(word, "=")
			if _, dup := m[name]; ok && !dup {
				m[name] = value
			}
		}
		return m, nil
	},
	format: func(m map[string]string) string {
		words := make([]string, 0, len(m))
		for name, value := range m {
			words = append(words, name+"="+value)
		}
		sort.Strings(words)
		return strings.Join(words, " ")
	},
	join: func(old, added map[string]string) map[string]string {
		m := make(map[string]string, len(old)+len(added))
		for name, value := range added {
			m[name] = value
		}
		for name, value := range old { // as in Nix, what is there already stays
			m[name] = value
		}
		return m
	},
}

var sandboxMode = codec[SandboxMode]{
	parse: func(name, text string) (SandboxMode, error) {
		for _, m := range []SandboxMode{SandboxOff, SandboxRelaxed, SandboxOn} {
			if m.String() == text {
				return m, nil
			}
		}
		return SandboxOff, fmt.Errorf("option '%s' has invalid value '%s'", name, text)
	},
	format: SandboxMode.String,
}

// sandboxPaths are written target, target=source, and with a ? at the end if optional.
var sandboxPaths = codec[[]SandboxPath]{
	parse: func(_, text string) ([]SandboxPath, error) {
		paths := map[string]SandboxPath{}
		for _, word := range sortedSet(strings.Fields(text)) {
			var p SandboxPath
			word, p.Optional = strings.CutSuffix(word, "?")
			var renamed bool
			if p.Target, p.Source, renamed = strings.Cut(word, "="); !renamed {
				p.Source = p.Target
			}
			if p.Target != "" {
				paths[p.Target] = p
			}
		}
		return sortedSandboxPaths(paths), nil
	},
	format: func(paths []SandboxPath) string {
		words := make([]string, len(paths))
		for i, p := range paths {
			words[i] = p.String()
		}
		return strings.Join(words, " ")
	},
	join: func(old, added []SandboxPath) []SandboxPath {
		paths := map[string]SandboxPath{}
		for _, p := range added {
			paths[p.Target] = p
		}
		for _, p := range old {
			paths[p.Target] = p
		}
		return sortedSandboxPaths(paths)
	},
}

func sortedSandboxPaths(paths map[string]SandboxPath) []SandboxPath {
	out := make([]SandboxPath, 0, len(paths))
	for _, p := range paths {
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Target < out[j].Target })
	return out
}

var jsonText = codec[string]{
	parse: func(name, text string) (string, error) {
		if text != "" && !json.Valid([]byte(text)) {
			return "", fmt.Errorf("parsing setting '%s': invalid JSON", name)
		}
		return text, nil
	},
	format: text.format,
}
