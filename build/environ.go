package build

import (
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/tvixd/tvixd/derivation"
	"github.com/tvixd/tvixd/nixhash"
	"github.com/tvixd/tvixd/storepath"
)

// homeDir is what $HOME says: a folder that does not exist, so that nothing
// depends on whose home it is.
const homeDir = "/homeless-shelter"

// environment is what a builder gets: its variables, and files in its build
// folder.
type environment struct {
	vars  map[string]string
	files map[string]string // by name
	args  []string
}

// list is the environment as execve takes it, sorted by name.
func (e *environment) list() []string {
	list := make([]string, 0, len(e.vars))
	for _, name := range slices.Sorted(maps.Keys(e.vars)) {
		list = append(list, name+"="+e.vars[name])
	}
	return list
}

// environment makes the builder's environment. top is the build folder as the
// builder sees it, closure all its inputs.
func (j *job) environment(top string, closure []storepath.Path) (*environment, error) {
	placeholders := j.placeholders()
	e := &environment{
		vars: map[string]string{
			"PATH":            "/path-not-set", // shells have one of their own otherwise
			"HOME":            homeDir,
			"NIX_STORE":       string(j.b.dir),
			"NIX_BUILD_CORES": strconv.Itoa(j.settings.cores()),
		},
		files: make(map[string]string),
	}
	var err error
	if j.attrs.structured != nil {
		err = j.structuredAttrs(e, top, closure, placeholders)
	} else {
		err = j.plainAttrs(e, top, closure, placeholders)
	}
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"} {
		e.vars[name] = top
	}
	if j.drv.IsFixed() {
		e.vars["NIX_OUTPUT_CHECKED"] = "1" // for fetchurl of old
		if err := j.impureEnv(e); err != nil {
			return nil, err
		}
	}
	e.vars["NIX_LOG_FD"] = "2"
	e.vars["TERM"] = "xterm-256color"

	for name, value := range e.vars {
		e.vars[name] = placeholders.Replace(value)
	}
	e.args = []string{path.Base(j.drv.Builder)}
	for _, a := range j.drv.Args {
		e.args = append(e.args, placeholders.Replace(a))
	}
	return e, nil
}

func (s *Settings) cores() int {
	if s.Cores > 0 {
		return s.Cores
	}
	return runtime.NumCPU()
}

// placeholders replaces what stands for the derivation's own outputs.
func (j *job) placeholders() *strings.Replacer {
	var pairs []string
	for name, o := range j.drv.Outputs {
		pairs = append(pairs, derivation.OwnPlaceholder(name).String(), j.b.dir.Join(o.Path))
	}
	return strings.NewReplacer(pairs...)
}

// plainAttrs gives every attribute to the builder as a variable, or, when it
// says so itself, as a file.
func (j *job) plainAttrs(e *environment, top string, closure []storepath.Path, placeholders *strings.Replacer) error {
	asFile := tokens(j.drv.Env["passAsFile"])
	for name, value := range j.drv.Env {
		if !slices.Contains(asFile, name) {
			e.vars[name] = value
			continue
		}
		file := ".attr-" + nixhash.Sum(nixhash.SHA256, []byte(name)).Nix32()
		e.files[file] = placeholders.Replace(value)
		e.vars[name+"Path"] = top + "/" + file
	}
	return j.exportGraph(e, closure)
}

// impureEnv passes on variables of the daemon's own environment.
func (j *job) impureEnv(e *environment) error {
	names, _, err := j.attrs.stringList("impureEnvVars")
	if err != nil {
		return err
	}
	for _, name := range names {
		if v, ok := j.settings.ImpureEnv[name]; ok {
			e.vars[name] = v
		} else {
			e.vars[name] = os.Getenv(name)
		}
	}
	return nil
}

// structuredAttrs writes the attributes to files, one for programs and one for
// shells.
func (j *job) structuredAttrs(e *environment, top string, closure []storepath.Path, placeholders *strings.Replacer) error {
	attrs := maps.Clone(j.attrs.structured)
	outputs := make(map[string]any, len(j.drv.Outputs))
	for name, o := range j.drv.Outputs {
		outputs[name] = j.b.dir.Join(o.Path)
	}
	attrs["outputs"] = outputs
	if graphs, ok := attrs["exportReferencesGraph"].(map[string]any); ok {
		for name, v := range graphs {
			graph, err := j.exportGraphJSON(v, closure)
			if err != nil {
				return err
			}
			attrs[name] = graph
		}
	}
	e.files[".attrs.sh"] = placeholders.Replace(shellAttrs(attrs))
	e.files[".attrs.json"] = placeholders.Replace(string(appendJSON(nil, attrs)))
	e.vars["NIX_ATTRS_SH_FILE"] = top + "/.attrs.sh"
	e.vars["NIX_ATTRS_JSON_FILE"] = top + "/.attrs.json"
	return nil
}

var graphFileName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// exportGraph writes the reference graphs that exportReferencesGraph asks for,
// in the form that nix-store --register-validity reads.
func (j *job) exportGraph(e *environment, closure []storepath.Path) error {
	dir := j.b.dir
	v := j.drv.Env["exportReferencesGraph"]
	pairs := tokens(v)
	if len(pairs)%2 != 0 {
		return failf(InputRejected, "odd number of tokens in 'exportReferencesGraph': '%s'", v)
	}
	for i := 0; i < len(pairs); i += 2 {
		name, full := pairs[i], pairs[i+1]
		if !graphFileName.MatchString(name) {
			return failf(InputRejected, "invalid file name '%s' in 'exportReferencesGraph'", name)
		}
		if !dir.Contains(full) {
			return failf(InputRejected, "'exportReferencesGraph' contains a non-store path '%s'", full)
		}
		p, _, err := dir.ParseInside(full)
		if err != nil {
			return &Error{Status: InputRejected, Msg: err.Error()}
		}
		paths, err := j.exportedReferences([]storepath.Path{p}, closure)
		if err != nil {
			return err
		}
		infos, err := j.b.store.PathInfo().GetMany(j.ctx, paths)
		if err != nil {
			return err
		}
		var b strings.Builder
		for n, info := range infos {
			if info == nil {
				return fmt.Errorf("read references of '%s': it is not valid any more", dir.Join(paths[n]))
			}
			fmt.Fprintf(&b, "%s\n\n%d\n", dir.Join(info.Path), len(info.References))
			for _, ref := range info.References {
				b.WriteString(dir.Join(ref) + "\n")
			}
		}
		e.files[name] = b.String()
	}
	return nil
}

// exportedReferences is the closure of paths, which must be inputs, with the
// outputs of derivations in it.
func (j *job) exportedReferences(paths, inputs []storepath.Path) ([]storepath.Path, error) {
	for _, p := range paths {
		if _, ok := slices.BinarySearchFunc(inputs, p, storepath.Path.Compare); !ok {
			return nil, failf(InputRejected, "cannot export references of path '%s' because it is not in the "+
				"input closure of the derivation", j.b.dir.Join(p))
		}
	}
	closure, err := j.closure(paths)
	if err != nil {
		return nil, err
	}
	var outputs []storepath.Path
	for _, p := range closure {
		if !p.IsDerivation() {
			continue
		}
		drv, err := j.b.store.ReadDerivation(j.ctx, p)
		if err != nil {
			return nil, err
		}
		for _, o := range drv.Outputs {
			if !o.Kind.KnowsPaths() {
				return nil, &Error{Status: InputRejected, Msg: "exportReferences on CA derivations is not yet implemented"}
			}
			outputs = append(outputs, o.Path)
		}
	}
	if len(outputs) == 0 {
		return closure, nil
	}
	return j.closure(append(outputs, closure...))
}
