package configs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// AddFlags defines a flag for every key: wireguard.mode is --wireguard-mode. Lists
// are separated by commas.
func AddFlags(flags *pflag.FlagSet) {
	for _, s := range settings() {
		usage := s.describe
		if len(s.def) > 0 {
			usage += " (default " + strings.Join(s.def, ",") + ")"
		}
		flags.String(s.flag(), "", usage)
	}
}

// Load reads the file at path, the environment and flags that [AddFlags] defined; a
// flag goes before the environment, and that before the file. A missing file is an error
// only if required is true. The error is one line that names source, key and value, and says
// what is allowed.
func Load(path string, required bool, flags *pflag.FlagSet) (Config, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && !required {
		return Parse(strings.NewReader(""), path, flags)
	}
	if err != nil {
		return Config{}, fmt.Errorf("reading the configuration: %w: name a file that exists with --config, or leave --config out", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	return Parse(file, path, flags)
}

// Parse is Load with the file's text and name. Flags may be nil.
func Parse(text io.Reader, name string, flags *pflag.FlagSet) (Config, error) {
	in := input{name: name, flags: flags, viper: viper.New()}
	in.viper.SetConfigType("yaml")
	if err := in.viper.ReadConfig(text); err != nil {
		return Config{}, fmt.Errorf("%s: this is not YAML of keys and values: %s: compare it with meshd.example.yaml",
			name, oneLine(errors.Unwrap(err), err))
	}
	keys := settings()
	if err := in.bind(keys); err != nil {
		return Config{}, err
	}
	if err := in.checkUnknown(keys); err != nil {
		return Config{}, err
	}
	c := Default()
	for _, s := range keys {
		if err := in.apply(&c, s); err != nil {
			return Config{}, err
		}
	}
	return c, in.checkTogether(c)
}

func oneLine(errs ...error) string {
	for _, err := range errs {
		if err != nil {
			return strings.Join(strings.Fields(err.Error()), " ")
		}
	}
	return ""
}

// input is where values come from.
type input struct {
	name  string // of the file
	flags *pflag.FlagSet
	viper *viper.Viper
}

func (in input) bind(keys []setting) error {
	for _, s := range keys {
		if err := in.viper.BindEnv(s.key, s.env()); err != nil {
			return fmt.Errorf("binding %s: %w", s.env(), err)
		}
		if in.flags == nil || in.flags.Lookup(s.flag()) == nil {
			continue
		}
		if err := in.viper.BindPFlag(s.key, in.flags.Lookup(s.flag())); err != nil {
			return fmt.Errorf("binding --%s: %w", s.flag(), err)
		}
	}
	return nil
}

// checkUnknown refuses keys that nothing reads: a misspelled one would silently leave
// its default in force.
func (in input) checkUnknown(keys []setting) error {
	var known, sections, envs []string
	for _, s := range keys {
		known = append(known, s.key)
		envs = append(envs, s.env())
		if section, _, ok := strings.Cut(s.key, "."); ok {
			sections = append(sections, section)
		}
	}
	used := in.viper.AllKeys()
	slices.Sort(used)
	for _, key := range used {
		empty := in.viper.Get(key) == nil && slices.Contains(sections, key) // all its keys are commented out
		if empty || slices.Contains(known, key) {
			continue
		}
		if slices.Contains(sections, key) {
			return fmt.Errorf("%s: %s: %q is not allowed: it is a section, write its keys below it, indented",
				in.name, key, fmt.Sprint(in.viper.Get(key)))
		}
		if near := nearest(key, known); near != "" {
			return fmt.Errorf("%s: unknown key %s: did you mean %s?", in.name, key, near)
		}
		return fmt.Errorf("%s: unknown key %s: the keys are %s", in.name, key, strings.Join(known, ", "))
	}
	return checkEnvironment(os.Environ(), envs)
}

// otherVariables are read by meshd's programs, or set by them, and are no keys.
var otherVariables = []string{"MESHD_CONFIG", "MESHD_SOCKET", "MESHD_ENDPOINT"}

// checkEnvironment refuses a variable of meshd's that nothing reads.
func checkEnvironment(environ, known []string) error {
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "MESHD_") || slices.Contains(known, name) || slices.Contains(otherVariables, name) {
			continue
		}
		if near := nearest(name, slices.Concat(known, otherVariables)); near != "" {
			return fmt.Errorf("environment: unknown variable %s: did you mean %s?", name, near)
		}
		return fmt.Errorf("environment: unknown variable %s: unset it, or use one of %s", name, strings.Join(known, ", "))
	}
	return nil
}

// apply sets one key from the first source that has it.
func (in input) apply(c *Config, s setting) error {
	raw := in.viper.Get(s.key)
	if raw == nil || raw == "" {
		return nil // absent, or written without a value: the default stands
	}
	values, err := texts(raw, s.list)
	if err == nil && len(values) > 0 {
		err = s.set(c, values)
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %q is not allowed: %w", in.source(s), s.key, show(raw), err)
	}
	return nil
}

// source names where the value of a key came from.
func (in input) source(s setting) string {
	if in.flags != nil && in.flags.Changed(s.flag()) {
		return "flag --" + s.flag()
	}
	if os.Getenv(s.env()) != "" {
		return "environment " + s.env()
	}
	return in.name
}

// texts is a value as the words that a person wrote.
func texts(raw any, list bool) ([]string, error) {
	switch value := raw.(type) {
	case map[string]any, map[any]any:
		return nil, errors.New("use a value, it has no keys below it")
	case []any:
		if !list {
			return nil, errors.New("use one value, not a list")
		}
		words := make([]string, len(value))
		for i, element := range value {
			words[i] = fmt.Sprint(element)
		}
		return words, nil
	}
	word := fmt.Sprint(raw)
	if !list {
		return []string{word}, nil
	}
	var words []string
	for part := range strings.SplitSeq(word, ",") {
		if part = strings.TrimSpace(part); part != "" {
			words = append(words, part)
		}
	}
	return words, nil
}

func show(raw any) string {
	if list, err := texts(raw, true); err == nil {
		return strings.Join(list, ", ")
	}
	return fmt.Sprint(raw)
}

// checkTogether checks what only makes sense in the light of other keys.
func (in input) checkTogether(c Config) error {
	v4 := false
	for _, pool := range c.AddressPools {
		for _, subnet := range c.Gateway.Subnets {
			if pool.Overlaps(subnet) {
				return fmt.Errorf("%s: gateway.subnet: %q is not allowed: it overlaps address_pools' %s: choose another range for one of them",
					in.name, subnet, pool)
			}
		}
		v4 = v4 || pool.Addr().Is4() && pool.Bits() <= c.NetworkPrefix
	}
	if !v4 {
		return fmt.Errorf("%s: network_prefix: \"%d\" is not allowed: no range in address_pools holds a network of that size: use a larger number, or a larger range",
			in.name, c.NetworkPrefix)
	}
	if c.StateDir == c.RuntimeDir {
		return fmt.Errorf("%s: runtime_dir: %q is not allowed: it is state_dir as well: use two directories", in.name, c.RuntimeDir)
	}
	return nil
}
