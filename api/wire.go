package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
)

// decode reads one JSON value and nothing after it. Unknown fields are errors: a misspelled
// one would silently do something else. An empty body is the zero value.
func decode(body io.Reader, into any) error {
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("there is more after the JSON object")
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		err = fmt.Errorf("it is larger than %d bytes", tooLarge.Limit)
	}
	return &Error{CodeInvalid, fmt.Sprintf("the request cannot be read: %v: compare it with openapi.yaml", err)}
}

// writeJSON answers. That the client may be gone by now is no error of anybody.
func writeJSON(w http.ResponseWriter, status int, body any) {
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// withoutNil is a copy of v in which every nil slice is an empty one, so that JSON has []
// where a list is promised, never null. It is a copy because v may be shared.
func withoutNil(v any) any {
	if v == nil {
		return nil
	}
	return copyWithoutNil(reflect.ValueOf(v)).Interface()
}

func copyWithoutNil(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Slice:
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(copyWithoutNil(v.Index(i)))
		}
		return out
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		for i := range v.NumField() {
			out.Field(i).Set(copyWithoutNil(v.Field(i)))
		}
		return out
	}
	return v
}
