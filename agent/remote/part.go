package remote

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// partBytes is how much of a bundle one record carries: below the 1 MiB that
// brokers take by default, in base64 too.
const partBytes = 256 << 10

// Part is the value of a record on the status topic that carries a piece of what
// a command gathered.
type Part struct {
	Command string `json:"command"` // id of the command
	Part    int    `json:"part"`    // from 1
	Parts   int    `json:"parts"`
	SHA256  string `json:"sha256"` // of all of it, hex
	Data    []byte `json:"data"`
}

// PartKey is the key of part i, from 0. No agent's id has a slash.
func PartKey(agent string, i int) string { return fmt.Sprintf("%s/diagnostics/%d", agent, i) }

// IsStatusKey says whether the record with this key on the status topic is an
// agent's status, not a part of something else.
func IsStatusKey(key string) bool { return !strings.Contains(key, "/") }

// Split cuts data into parts, one at least.
func Split(command string, data []byte) []Part {
	sum := sha256.Sum256(data)
	n := max(1, (len(data)+partBytes-1)/partBytes)
	parts := make([]Part, n)
	for i := range parts {
		parts[i] = Part{Command: command, Part: i + 1, Parts: n, SHA256: hex.EncodeToString(sum[:]), Data: data[min(i*partBytes, len(data)):min((i+1)*partBytes, len(data))]}
	}
	return parts
}

// Join puts the parts of a command together, which may come in any order, with
// those of others among them. It is an error while some are missing, or where
// the whole is not what was sent.
func Join(command string, parts []Part) ([]byte, error) {
	var pieces [][]byte
	have, sum := 0, ""
	for _, p := range parts {
		if p.Command != command {
			continue
		}
		if pieces == nil && p.Parts > 0 && p.Parts <= 1000 {
			pieces, sum = make([][]byte, p.Parts), p.SHA256
		}
		if p.Parts != len(pieces) || p.Part < 1 || p.Part > len(pieces) || p.SHA256 != sum {
			return nil, errors.New("the parts do not fit together")
		}
		if pieces[p.Part-1] == nil {
			have++
		}
		pieces[p.Part-1] = append([]byte{}, p.Data...)
	}
	if have == 0 || have < len(pieces) {
		return nil, fmt.Errorf("%d of %d parts are there", have, len(pieces))
	}
	var all []byte
	for _, p := range pieces {
		all = append(all, p...)
	}
	if got := sha256.Sum256(all); hex.EncodeToString(got[:]) != sum {
		return nil, errors.New("what is there is not what was sent")
	}
	return all, nil
}
