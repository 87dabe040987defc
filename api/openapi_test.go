package api

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type document struct {
	Paths      map[string]map[string]operation `yaml:"paths"`
	Components struct {
		Schemas map[string]schema `yaml:"schemas"`
	} `yaml:"components"`
}

type operation struct {
	ID         string `yaml:"operationId"`
	Summary    string `yaml:"summary"`
	Parameters []struct {
		Name string `yaml:"name"`
	} `yaml:"parameters"`
	Body      content            `yaml:"requestBody"`
	Responses map[string]content `yaml:"responses"`
}

type content struct {
	Content map[string]struct {
		Schema schema `yaml:"schema"`
	} `yaml:"content"`
}

func (c content) schema() schema { return c.Content["application/json"].Schema }

type schema struct {
	Ref        string            `yaml:"$ref"`
	Type       string            `yaml:"type"`
	Items      *schema           `yaml:"items"`
	Required   []string          `yaml:"required"`
	Properties map[string]schema `yaml:"properties"`
	Values     *schema           `yaml:"additionalProperties"`
}

// TestOpenAPI walks the routes and their types, and the description, and wants them to say the same.
func TestOpenAPI(t *testing.T) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc document
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	w := walker{t: t, schemas: doc.Components.Schemas, seen: map[string]bool{}}
	w.matches("Error", schema{Ref: "#/components/schemas/Error"}, reflect.TypeFor[Error]())
	for _, r := range routes() {
		op, ok := doc.Paths[r.path][strings.ToLower(r.method)]
		if !ok {
			t.Errorf("%s %s is not described", r.method, r.path)
			continue
		}
		delete(doc.Paths[r.path], strings.ToLower(r.method))
		w.operation(r, op)
	}
	for path, left := range doc.Paths {
		for method := range left {
			t.Errorf("%s %s is described and does not exist", method, path)
		}
	}
	for name := range doc.Components.Schemas {
		if !w.seen[name] {
			t.Errorf("schema %s is used by nothing", name)
		}
	}
}

type walker struct {
	t       *testing.T
	schemas map[string]schema
	seen    map[string]bool
}

func (w walker) operation(r route, op operation) {
	at := r.method + " " + r.path
	if op.ID != r.operation || op.Summary == "" {
		w.t.Errorf("%s: operationId %q, want %q; summary %q", at, op.ID, r.operation, op.Summary)
	}
	_, parameter, has := strings.Cut(r.path, "{")
	parameter, _, _ = strings.Cut(parameter, "}")
	if has != (len(op.Parameters) == 1) || has && op.Parameters[0].Name != parameter {
		w.t.Errorf("%s: parameters %v", at, op.Parameters)
	}
	w.matches(at+" request", op.Body.schema(), r.request)
	status := "200"
	if r.response == nil {
		status = "204"
	}
	answer, ok := op.Responses[status]
	if _, other := op.Responses["default"]; !ok || !other {
		w.t.Errorf("%s: responses need %s and default", at, status)
	}
	w.matches(at+" response", answer.schema(), r.response)
}

// matches compares a schema with a Go type; nil is no body.
func (w walker) matches(at string, s schema, want reflect.Type) {
	if want == nil {
		if s.Ref != "" || s.Type != "" {
			w.t.Errorf("%s: has a body", at)
		}
		return
	}
	kind := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Float64: "number", reflect.Slice: "array", reflect.Map: "object",
		reflect.Int: "integer", reflect.Int64: "integer", reflect.Uint16: "integer", reflect.Uint32: "integer", reflect.Uint64: "integer"}[want.Kind()]
	switch {
	case want.Kind() == reflect.Struct:
		w.object(at, s, want)
	case s.Type != kind:
		w.t.Errorf("%s: type is %q, want %q", at, s.Type, kind)
	case kind == "array" && s.Items == nil:
		w.t.Errorf("%s: array without items", at)
	case kind == "array":
		w.matches(at+"[]", *s.Items, want.Elem())
	case kind == "object" && s.Values == nil:
		w.t.Errorf("%s: object without additionalProperties", at)
	case kind == "object":
		w.matches(at+"{}", *s.Values, want.Elem())
	}
}

func (w walker) object(at string, s schema, want reflect.Type) {
	name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
	if name != want.Name() {
		w.t.Errorf("%s: schema is %q, want %s", at, s.Ref, want.Name())
		return
	}
	if w.seen[name] {
		return
	}
	w.seen[name] = true
	object, ok := w.schemas[name]
	if !ok {
		w.t.Errorf("%s: schema %s does not exist", at, name)
		return
	}
	var required []string
	for _, field := range reflect.VisibleFields(want) {
		if field.Anonymous {
			continue
		}
		key, option, _ := strings.Cut(field.Tag.Get("json"), ",")
		property, ok := object.Properties[key]
		if !ok {
			w.t.Errorf("%s: %s.%s is not described", at, name, key)
			continue
		}
		delete(object.Properties, key)
		w.matches(name+"."+key, property, field.Type)
		if option == "" {
			required = append(required, key)
		}
	}
	for key := range object.Properties {
		w.t.Errorf("%s: %s.%s is described and does not exist", at, name, key)
	}
	// Of a request's fields all may be left out as far as JSON goes.
	if !strings.HasSuffix(name, "Request") && !slices.Equal(slices.Sorted(slices.Values(object.Required)), slices.Sorted(slices.Values(required))) {
		w.t.Errorf("%s: %s requires %v, want %v", at, name, object.Required, required)
	}
}
