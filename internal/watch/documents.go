package watch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// document is one document of a manifest file, as JSON.
type document struct {
	line int // where it starts, from 1
	data []byte
}

// documents splits a manifest file. An error says the line.
func documents(file string, data []byte) ([]document, error) {
	if filepath.Ext(file) == ".json" {
		return jsonDocuments(data)
	}
	return yamlDocuments(data)
}

// jsonDocuments reads one JSON object after the other.
func jsonDocuments(data []byte) ([]document, error) {
	var docs []document
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			at := dec.InputOffset()
			if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
				at = syntax.Offset
			}
			return nil, fmt.Errorf("line %d: %w", lineAt(data, at), err)
		}
		doc := document{lineAt(data, dec.InputOffset()-int64(len(raw))), raw}
		if err := mustBeObject(doc); err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
}

func lineAt(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(max(offset, 0), int64(len(data)))], []byte("\n"))
}

// yamlDocuments splits a YAML stream at its markers, "---" and "...", and reads each document. The YAML library reads
// one document only and does not say that there are more.
func yamlDocuments(data []byte) ([]document, error) {
	var docs []document
	start, line, n := 0, 1, 1 // of the document: offset and line; line that is looked at
	flush := func(end int) error {
		doc, err := yamlDocument(data[start:end], line)
		if doc != nil {
			docs = append(docs, *doc)
		}
		return err
	}
	for at := 0; at < len(data); n++ {
		next := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		switch text := data[at:next]; {
		case isMarker(text, "---"):
			if err := flush(at); err != nil {
				return nil, err
			}
			start, line = at, n
		case isMarker(text, "..."):
			if err := flush(at); err != nil {
				return nil, err
			}
			start, line = next, n+1
		}
		at = next
	}
	if err := flush(len(data)); err != nil {
		return nil, err
	}
	return docs, nil
}

func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
}

// yamlDocument reads one document, nil if there is nothing in it.
func yamlDocument(data []byte, line int) (*document, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	out, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		// Once more behind as many empty lines as come before it, so that the error names the file's line.
		_, err = yaml.YAMLToJSONStrict(append(bytes.Repeat([]byte("\n"), line-1), data...))
		return nil, fmt.Errorf("document at line %d: %w", line, err)
	}
	if bytes.Equal(out, []byte("null")) {
		return nil, nil // comments alone
	}
	doc := document{line, out}
	return &doc, mustBeObject(doc)
}

func mustBeObject(d document) error {
	if len(d.data) == 0 || d.data[0] != '{' {
		return fmt.Errorf("line %d: no Kubernetes object but %.20s", d.line, d.data)
	}
	return nil
}
