package nixconf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

const (
	maxFile     = 4 << 20 // bytes of one file
	maxIncludes = 32      // files within files
)

// An assignment is one line name = value; value has single spaces between its words.
type assignment struct{ name, value string }

// parse reads contents, which came from file, and what they include.
func parse(contents, file string, depth int) ([]assignment, error) {
	var out []assignment
	for line := range strings.SplitSeq(contents, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
		if len(words) == 0 {
			continue
		}
		syntax := fmt.Errorf("syntax error in configuration line '%s' in '%s'", line, file)
		switch {
		case len(words) < 2:
			return nil, syntax
		case words[0] == "include" || words[0] == "!include":
			if len(words) != 2 {
				return nil, syntax
			}
			included, err := include(words[1], file, words[0] == "!include", depth)
			if err != nil {
				return nil, err
			}
			out = append(out, included...)
		case words[1] != "=":
			return nil, syntax
		default:
			out = append(out, assignment{words[0], strings.Join(words[2:], " ")})
		}
	}
	return out, nil
}

func include(target, from string, mayMiss bool, depth int) ([]assignment, error) {
	if !path.IsAbs(target) {
		target = path.Join(path.Dir(from), target)
	}
	if depth >= maxIncludes {
		return nil, fmt.Errorf("file '%s' included from '%s': files include each other too deeply", target, from)
	}
	contents, err := readFile(target)
	switch {
	case errors.Is(err, fs.ErrNotExist) && mayMiss:
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("file '%s' included from '%s' not found", target, from)
	case err != nil:
		return nil, err
	}
	return parse(contents, target, depth+1)
}

func readFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	contents, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(contents) > maxFile {
		return "", fmt.Errorf("read %s: a configuration file of more than %d bytes", name, maxFile)
	}
	return string(contents), nil
}
