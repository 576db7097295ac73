package config

import _ "embed"

//go:embed schema.json
var schema string

// Schema is the JSON Schema of the config file, draft 2020-12, for editors. It
// is generated from the structs and their comments; Load is stricter.
func Schema() []byte { return []byte(schema) }
