package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgcutover/internal/session"
)

// A field is a field of a Status that programs can ask for by its JSON path.
type field struct {
	path  string
	index []int // index path of the field in the nested structs
	count bool  // print the length of a list, not the list
	ask   bool  // the source has to be asked
}

// fields lists the fields of a struct.
func fields(t reflect.Type, prefix string, index []int, ask bool) (list []field) {
	for i := range t.NumField() {
		x := t.Field(i)
		name, _, _ := strings.Cut(x.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		f := field{path: prefix + name, index: append(index[:len(index):len(index)], i), ask: ask || x.Tag.Get("ask") == "source"}
		list = append(list, f)
		switch {
		case x.Type.Kind() == reflect.Slice:
			f.path, f.count = f.path+".count", true
			list = append(list, f)
		case x.Type == reflect.TypeFor[*SlotStatus](), x.Type == reflect.TypeFor[*MissingStatus](), x.Type == reflect.TypeFor[*WatchStatus](),
			x.Type == reflect.TypeFor[*BackStatus]():
			list = append(list, fields(x.Type.Elem(), f.path+".", f.index, f.ask)...)
		}
	}
	return list
}

// Get prints one field of the status for programs, and nothing else. It asks the source only for
// values that the target does not have. If the value is unavailable, Get fails with the exit status
// of the cause.
func Get(ctx context.Context, m *session.Migration, path string) error {
	f, err := findField(path)
	if err != nil {
		return err
	}
	s, err := m.BeginTarget(ctx)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	st, err := askTarget(ctx, s)
	if err != nil {
		return err
	}
	if f.ask && f.value(st) == nil {
		st.askSource(ctx, s, path, nil)
	}
	v := f.value(st)
	if v == nil {
		return unknown(path, st.asked)
	}
	word, err := machine(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(m.Out, word)
	return err
}

func findField(path string) (*field, error) {
	list := fields(reflect.TypeFor[Status](), "", nil, false)
	names := make([]string, len(list))
	for i, f := range list {
		if f.path == path {
			return &f, nil
		}
		names[i] = f.path
	}
	return nil, fault.New(fault.Usage, "--get: there is no field %q", path).WithHint("The fields are: %s", strings.Join(names, ", "))
}

// value returns the field's value in a status, or nil if it is not known.
func (f *field) value(st *Status) any {
	v := reflect.ValueOf(st)
	for _, i := range f.index {
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return nil
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil(), v.Kind() == reflect.Slice && v.IsNil() && f.ask:
		return nil
	case f.count:
		return v.Len()
	}
	return v.Interface()
}

// unknown returns the error for a field whose value is unavailable.
func unknown(path string, cause error) error {
	if cause == nil {
		return fault.New(fault.Config, "there is no %s at the moment", path).WithHint("To see the state of the migration: pgcutover status")
	}
	e := &fault.Error{Status: fault.StatusOf(cause), Err: fmt.Errorf("could not determine %s: %w", path, cause)}
	var f *fault.Error
	if errors.As(cause, &f) {
		e.Detail, e.Hint = f.Detail, f.Hint
	}
	return e
}

// word matches values that need no quotes: our own words, numbers, times, LSNs, and most names.
var word = regexp.MustCompile(`^[A-Za-z0-9_./:+-]+$`)

// machine prints a value on one line for programs: a word as it is, any other value as JSON.
func machine(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(text.JSONWriter(&b))
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	out := strings.TrimSuffix(b.String(), "\n")
	var s string
	if json.Unmarshal([]byte(out), &s) == nil && word.MatchString(s) {
		return s, nil
	}
	return out, nil
}
