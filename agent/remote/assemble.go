package remote

import (
	"fmt"
	"slices"

	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
)

// alwaysLocked are paths that no document changes, whatever remote.locked says:
// they decide who this agent is and whom it believes.
var alwaysLocked = []string{"agent.id", "remote.trust", "remote.threshold", "remote.locked"}

// keptUnlessGiven are sections that a document for many agents does not have. An
// agent without them could not be reached any more, or would lose its buffer.
var keptUnlessGiven = []string{"agent.labels", "agent.data_dir", "remote"}

// Assemble makes the whole config that a document leads to: its config, or its
// patch put on the running one; then what is locked is taken from the config
// file, and what a gateway cannot do without is kept where the document does not
// mention it. kept names the locked paths that the document wanted otherwise.
// Comments are lost. The error is one line.
func Assemble(doc *document.Document, running, local []byte, locked []string) (text []byte, kept []string, err error) {
	now, err := tree.Parse(running)
	if err != nil {
		return nil, nil, fmt.Errorf("the running config: %w", err)
	}
	file, err := tree.Parse(local)
	if err != nil {
		return nil, nil, fmt.Errorf("the config file: %w", err)
	}
	root := doc.Config.Clone()
	if root == nil {
		root = now.Clone()
	}
	for _, c := range doc.Patch {
		if err := root.Set(c.Path, c.Value); err != nil {
			return nil, nil, fmt.Errorf("patch: %w", err)
		}
	}
	for _, path := range keptUnlessGiven {
		if err := keep(root, now, path); err != nil {
			return nil, nil, err
		}
	}
	for _, path := range slices.Concat(locked, alwaysLocked) {
		differs, err := lock(root, file, now, path)
		if err != nil {
			return nil, nil, fmt.Errorf("locked: %w", err)
		}
		if differs && !slices.Contains(kept, path) {
			kept = append(kept, path)
		}
	}
	return root.Encode(), kept, nil
}

// keep copies what root does not have at the path.
func keep(root, from *tree.Node, path string) error {
	if has, err := root.Lookup(path); err != nil || has != nil {
		return err
	}
	value, err := from.Lookup(path)
	if err != nil || value == nil {
		return err
	}
	return root.Set(path, value)
}

// lock puts at the path what the config file has there, or nothing. It says
// whether the document wanted to change it.
func lock(root, file, now *tree.Node, path string) (differs bool, err error) {
	want, err := root.Lookup(path)
	if err != nil {
		return false, err
	}
	value, err := file.Lookup(path)
	if err != nil {
		return false, err
	}
	if tree.Equal(want, value) {
		return false, nil
	}
	running, err := now.Lookup(path)
	if err != nil {
		return false, err
	}
	differs = want != nil && !tree.Equal(want, running)
	if value == nil {
		value = &tree.Node{Kind: tree.Null}
	}
	return differs, root.Set(path, value)
}
