package nixconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// A Config is a set of values together with the knowledge of all settings.
type Config struct {
	Settings
	table   *table
	unknown map[string]bool
	notes   []string
}

// New gives every setting its default for h.
func New(h Host) *Config {
	c := &Config{table: newTable(h)}
	for _, s := range c.table.sorted {
		s.reset(&c.Settings)
	}
	return c
}

// Load reads nix.conf in the folder of h, if it is there, and then what getenv("NIX_CONFIG")
// holds. Its errors are Nix's.
func Load(h Host, getenv func(string) string) (*Config, error) {
	c := New(h)
	file := path.Join(h.ConfDir, "nix.conf")
	contents, err := readFile(file)
	switch {
	case err == nil:
		if err := c.Apply(contents, file); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if text := getenv("NIX_CONFIG"); text != "" {
		if err := c.Apply(text, "NIX_CONFIG"); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Apply lays the lines of one file over c.
func (c *Config) Apply(contents, file string) error {
	lines, err := parse(contents, file, 0)
	if err != nil {
		return err
	}
	isFeature := func(a assignment) bool { return strings.TrimPrefix(a.name, "extra-") == "experimental-features" }
	// Other settings may need a feature that is switched on further down.
	for _, wanted := range []bool{true, false} {
		for _, a := range lines {
			if isFeature(a) != wanted {
				continue
			}
			known, err := c.Set(a.name, a.value)
			if err != nil {
				return err
			}
			if !known {
				if c.unknown == nil {
					c.unknown = map[string]bool{}
				}
				c.unknown[a.name] = true
			}
		}
	}
	return nil
}

// Set gives one setting a value; name may be an alias or start with extra-. It is false for a
// name that no Nix knows. A setting that waits for an experimental feature stays as it is.
func (c *Config) Set(name, value string) (known bool, err error) {
	s, add, ok := c.table.find(name)
	if !ok {
		return clientOnly[strings.TrimPrefix(name, "extra-")], nil
	}
	if s.feature != "" && !c.HasFeature(s.feature) {
		c.notes = append(c.notes, fmt.Sprintf("Ignoring setting '%s' because experimental feature '%s' is not enabled", s.name, s.feature))
		return true, nil
	}
	return true, s.assign(&c.Settings, value, add)
}

// Canonical gives the name of the setting that name, perhaps an alias, stands for; it is name
// itself if there is none.
func (c *Config) Canonical(name string) string {
	if s, ok := c.table.byName[name]; ok {
		return s.name
	}
	return name
}

// Lookup returns a setting's value as text.
func (c *Config) Lookup(name string) (value string, ok bool) {
	s, ok := c.table.byName[name]
	if !ok {
		return "", false
	}
	return s.print(&c.Settings), true
}

// Changed lists the settings whose values are not the defaults.
func (c *Config) Changed() []string {
	var defaults Settings
	var names []string
	for _, s := range c.table.sorted {
		s.reset(&defaults)
		if s.print(&c.Settings) != s.print(&defaults) {
			names = append(names, s.name)
		}
	}
	return names
}

// TakeWarnings returns what Apply and Set had to say since the last call, unknown names last.
func (c *Config) TakeWarnings() []string {
	warnings := c.notes
	for _, name := range slices.Sorted(maps.Keys(c.unknown)) {
		warnings = append(warnings, unknownSetting(name))
	}
	c.notes, c.unknown = nil, nil
	return warnings
}

// Clone returns an independent copy without the warnings.
func (c *Config) Clone() *Config { return &Config{Settings: c.Settings, table: c.table} }

// String prints every setting as a line that Apply reads.
func (c *Config) String() string {
	var b strings.Builder
	for _, s := range c.table.sorted {
		if s.feature != "" && !c.HasFeature(s.feature) {
			continue
		}
		fmt.Fprintf(&b, "%s = %s\n", s.name, s.print(&c.Settings))
	}
	return b.String()
}

// MarshalJSON gives an object from name to value, default, aliases and description, as
// Nix's own listing of its settings has it. Intervals are numbers of the setting's unit.
func (c *Config) MarshalJSON() ([]byte, error) {
	type described struct {
		Aliases             []string `json:"aliases"`
		DefaultValue        any      `json:"defaultValue"`
		Description         string   `json:"description"`
		ExperimentalFeature *string  `json:"experimentalFeature"`
		Value               any      `json:"value"`
	}
	var defaults Settings
	out := make(map[string]described, len(c.table.sorted))
	for _, s := range c.table.sorted {
		s.reset(&defaults)
		d := described{Aliases: s.aliases, Description: s.meaning, Value: s.plain(&c.Settings), DefaultValue: s.plain(&defaults)}
		if d.Aliases == nil {
			d.Aliases = []string{}
		}
		if s.feature != "" {
			d.ExperimentalFeature = &s.feature
		}
		out[s.name] = d
	}
	return json.Marshal(out)
}

// plain is the setting's value in the types of JSON.
func (s *setting) plain(from *Settings) any {
	switch v := s.value(from).(type) {
	case time.Duration:
		return json.Number(s.print(from))
	case SandboxMode:
		if v == SandboxRelaxed {
			return v.String()
		}
		return v == SandboxOn
	case []string:
		return append([]string{}, v...)
	case map[string]string:
		return maps.Clone(v)
	case []SandboxPath:
		words := map[string]any{}
		for _, p := range v {
			words[p.Target] = map[string]any{"source": p.Source, "optional": p.Optional}
		}
		return words
	default:
		return v
	}
}
