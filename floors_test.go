package tvixd

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tvixd/tvixd"

// floors maps the first element of a package's folder to its floor. A package may import
// packages of lower floors; of its own floor only what sameFloor lists.
var floors = map[string]int{
	"internal": 0, "nixhash": 0, "storepath": 0, "nar": 0, "derivation": 0,
	"castore": 1, "pathinfo": 1, "worker-protocol": 1,
	"store": 2,
	"build": 3, "gc": 3, "fuse": 3,
	"daemon": 4,
	"cmd":    5,
	"e2e":    6,
}

// sameFloor lists which rooms may look into another one of their own floor. Within a room
// everything may be imported.
var sameFloor = map[string][]string{
	"storepath":  {"internal", "nixhash"},
	"nixhash":    {"internal"},
	"nar":        {"internal"},
	"derivation": {"internal", "nixhash", "storepath"},
	"pathinfo":   {"castore"},
}

// vocabularyOnly lists rooms of which another room may import only the parent package: its
// words, none of its services.
var vocabularyOnly = map[string]string{"pathinfo": "castore"}

// rooms are the top folders that hold no Go package of a floor.
var rooms = []string{".ci", ".git", "bin", "docs", "nixos", "nixos-tests", "scripts", "testdata"}

type sourceFile struct {
	folder string // relative to the module, slash-separated
	name   string
	ast    *ast.File
}

func sourceFiles(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); p != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, sourceFile{filepath.ToSlash(filepath.Dir(p)), d.Name(), f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func room(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	return first
}

func TestImportsPointDownwards(t *testing.T) {
	for _, f := range sourceFiles(t) {
		if f.folder == "." || strings.HasSuffix(f.name, "_test.go") {
			continue
		}
		from := room(f.folder)
		for _, spec := range f.ast.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			rest, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			if why := forbidden(from, rest); why != "" {
				t.Errorf("%s imports %s: %s", path.Join(f.folder, f.name), rest, why)
			}
		}
	}
}

func forbidden(from, imported string) string {
	to := room(imported)
	switch {
	case from == to:
		return ""
	case floors[to] > floors[from]:
		return "it is on a higher floor"
	case vocabularyOnly[from] == to && imported != to:
		return "only the vocabulary of " + to + " may be used here"
	case floors[to] < floors[from]:
		return ""
	}
	for _, ok := range sameFloor[from] {
		if ok == to {
			return ""
		}
	}
	return "it is a neighbour on the same floor"
}

func TestFloorsCatchAnUpwardImport(t *testing.T) {
	for _, c := range []struct {
		from, imported string
		ok             bool
	}{
		{"store", "castore/disk", true},
		{"castore", "store", false},
		{"pathinfo", "castore", true},
		{"pathinfo", "castore/disk", false},
		{"castore", "pathinfo", false},
		{"gc", "build", false},
		{"castore", "castore/disk", true},
		{"nar", "storepath", false},
	} {
		if got := forbidden(c.from, c.imported) == ""; got != c.ok {
			t.Errorf("%s importing %s: allowed %v, want %v", c.from, c.imported, got, c.ok)
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range sourceFiles(t) {
		if strings.HasSuffix(f.name, "_test.go") && f.folder != "e2e" {
			continue
		}
		documented[f.folder] = documented[f.folder] || f.ast.Doc != nil
	}
	for folder, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", folder)
		}
	}
}

func TestEveryFolderIsARoom(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, r := range rooms {
		known[r] = true
	}
	for r := range floors {
		known[r] = true
	}
	for _, e := range entries {
		if e.IsDir() && !known[e.Name()] {
			t.Errorf("folder %s is no room of the design: give it a floor, or put its files where they belong", e.Name())
		}
	}
}
