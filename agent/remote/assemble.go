package remote

import (
	"fmt"
	"slices"
	"strings"

	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
)

// alwaysLocked are paths that no document changes, whatever remote.locked says:
// they decide who this agent is, where its buffer lies, whom it believes and what
// it executes.
var alwaysLocked = []string{"agent.id", "agent.data_dir", "remote.trust", "remote.threshold", "remote.locked", "update"}

// keptUnlessGiven are sections that a document for many agents does not have. An
// agent without them could not be reached any more.
var keptUnlessGiven = []string{"agent.labels", "remote"}

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
	foreign, err := dropPrograms(root, file)
	if err != nil {
		return nil, nil, err
	}
	return root.Encode(), append(kept, foreign...), nil
}

// dropPrograms sees to it that the gateway runs no program that its own file does not
// name: a command of an uplink's metered that is another one than the file's is
// replaced by that, and taken away where the file has none. It returns the paths.
func dropPrograms(root, file *tree.Node) (dropped []string, err error) {
	uplinks := root.Get("uplinks")
	if uplinks == nil {
		return nil, nil
	}
	for _, u := range uplinks.Entries {
		path := fmt.Sprintf("uplinks.%q.kafka.metered.command", u.Key)
		want, err := root.Lookup(path)
		if err != nil || want == nil {
			if err != nil {
				return nil, err
			}
			continue
		}
		own, err := file.Lookup(path)
		if err != nil {
			return nil, err
		}
		if tree.Equal(want, own) {
			continue
		}
		if own == nil {
			own = &tree.Node{Kind: tree.Null}
		}
		if err := root.Set(path, own); err != nil {
			return nil, err
		}
		dropped = append(dropped, strings.ReplaceAll(path, `"`, ""))
	}
	return dropped, nil
}

// Relock puts what is locked in the config file into a config that came by a
// document: the file may have been changed since.
func Relock(text, local []byte, locked []string) ([]byte, error) {
	root, err := tree.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the stored config: %w", err)
	}
	text, _, err = Assemble(&document.Document{Config: root}, text, local, locked)
	return text, err
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
