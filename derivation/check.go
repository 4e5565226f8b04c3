package derivation

import (
	"fmt"

	"github.com/tvixd/tvixd/storepath"
)

// Check tells whether a derivation may lie at drvPath: its name must be that
// of the path, its outputs of one kind, the paths of those that are named by
// the inputs must be right, and variables with the outputs' names must hold
// the paths. What is wrong with the derivation is an ErrInvalid; other errors
// come from resolve.
func (h *Hasher) Check(d *Derivation, drvPath storepath.Path, resolve Resolver) error {
	full := h.dir.Join(drvPath)
	name, err := NameFromPath(drvPath)
	if err != nil {
		return err
	}
	if name != d.Name {
		return invalid("derivation '%s' has name '%s' which does not match its path", full, d.Name)
	}
	kind, err := d.Type()
	if err != nil {
		return fmt.Errorf("derivation '%s': %w", full, err)
	}
	if !kind.KnowsPaths() {
		return nil
	}
	if kind == InputAddressed {
		if err := h.checkOutputs(d, full, resolve); err != nil {
			return err
		}
	}
	for _, output := range d.OutputNames() {
		want := h.dir.Join(d.Outputs[output].Path)
		if value, ok := d.Env[output]; !ok || value != want {
			return invalid("derivation '%s' has incorrect environment variable '%s', should be '%s'", full, output, want)
		}
	}
	return nil
}

func (h *Hasher) checkOutputs(d *Derivation, full string, resolve Resolver) error {
	m, err := h.HashModulo(d, resolve)
	if err != nil {
		return fmt.Errorf("derivation '%s': %w", full, err)
	}
	for _, output := range d.OutputNames() {
		stated := d.Outputs[output].Path
		if m.Deferred {
			return invalid("derivation '%s' has incorrect output '%s', should be deferred", full, h.dir.Join(stated))
		}
		path, err := h.dir.Output(m.Hash, output, d.Name)
		if err != nil {
			return err
		}
		if stated != path {
			return invalid("derivation '%s' has incorrect output '%s', should be '%s'", full, h.dir.Join(stated), h.dir.Join(path))
		}
	}
	return nil
}

// Fill makes the deferred outputs of d input-addressed where their paths are
// known by now, and sets the variables with those outputs' names. For other
// outputs with known paths it sets the variables that are absent or empty;
// what they hold otherwise is left for Check. d is changed; its maps must be its own.
func (h *Hasher) Fill(d *Derivation, resolve Resolver) error {
	kind, err := d.Type()
	if err != nil {
		return err
	}
	filled := false
	if kind == Deferred {
		m, err := h.HashModulo(d, resolve)
		if err != nil || m.Deferred {
			return err
		}
		for _, output := range d.OutputNames() {
			path, err := h.dir.Output(m.Hash, output, d.Name)
			if err != nil {
				return err
			}
			d.Outputs[output] = Output{Kind: InputAddressed, Path: path}
		}
		filled = true
	}
	if !filled && !kind.KnowsPaths() {
		return nil
	}
	for output, o := range d.Outputs {
		if filled || d.Env[output] == "" {
			d.Env[output] = h.dir.Join(o.Path)
		}
	}
	return nil
}
