package cli

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sluice/agent/remote"
)

// maxBundle is how large a bundle may be once it is unpacked.
const maxBundle = 64 << 20

// bundleTexts are the parts of a bundle that are text, and the files that they
// become. All else becomes a JSON file of its name.
var bundleTexts = map[string]string{"config": "config.yaml", "log": "log.txt", "metrics": "metrics.txt", "goroutines": "goroutines.txt"}

// fleetDiagnostics has an agent send a bundle of what helps to find a fault, and
// writes it as files.
func fleetDiagnostics(ctx context.Context, c *call) error {
	o := c.orderFlags()
	dir := c.flags.String("o", "", "write to this new `folder` (default: AGENT-diagnostics-TIME)")
	last := c.flags.Bool("last", false, "order nothing: fetch the bundle that the agent sent last")
	if err := c.parse(1); err != nil {
		return err
	}
	id := c.rest[0]
	if *dir == "" {
		*dir = fmt.Sprintf("%s-diagnostics-%s", id, time.Now().UTC().Format("20060102T150405Z"))
	}
	if !*last {
		if err := o.make(ctx, c, "agent:"+id, "diagnostics", nil); err != nil {
			return err
		}
	}
	f, err := c.openFleet(ctx)
	if err != nil {
		return err
	}
	defer f.client.Close()
	command := ""
	if !*last {
		if command, err = c.orderBundle(ctx, f, o, id); err != nil {
			return err
		}
	}
	packed, err := f.bundle(ctx, id, command)
	if err != nil {
		return err
	}
	return c.unpack(packed, *dir)
}

// orderBundle orders one and returns the command's id once the agent has sent it.
func (c *call) orderBundle(ctx context.Context, f *fleet, o *order, id string) (string, error) {
	answers, r, err := f.give(ctx, c, o)
	if err != nil {
		return "", err
	}
	r.close()
	switch {
	case len(answers) == 0:
		return "", fmt.Errorf("agent %s does not report (fleet diagnostics --last %s fetches what it sends later)", id, id)
	case answers[0].State != remote.CommandDone:
		return "", fmt.Errorf("%w: %s %s", errNoBundle, answers[0].State, plainText(answers[0].Reason))
	}
	return o.cmd.ID, nil
}

// bundle reads the parts of a bundle; without a command, those of the last one.
func (f *fleet) bundle(ctx context.Context, id, command string) ([]byte, error) {
	prefix := strings.TrimSuffix(remote.PartKey(id, 0), "0")
	records, err := f.records(ctx, f.remote.StatusTopic, func(key string) bool { return strings.HasPrefix(key, prefix) })
	if err != nil {
		return nil, err
	}
	var parts []remote.Part
	for _, key := range slices.Sorted(maps.Keys(records)) {
		var p remote.Part
		if len(records[key]) == 0 || json.Unmarshal(records[key], &p) != nil {
			continue
		}
		if command == "" && key == prefix+"0" {
			command = p.Command
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return nil, errNoBundle
	}
	packed, err := remote.Join(command, parts)
	if err != nil {
		return nil, fmt.Errorf("the bundle of %s: %w", id, err)
	}
	return packed, nil
}

// unpack writes a bundle into a new folder.
func (c *call) unpack(packed []byte, dir string) error {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxBundle+1))
	if err == nil && len(text) > maxBundle {
		err = fmt.Errorf("it is larger than %d MiB", maxBundle>>20)
	}
	fields := map[string]json.RawMessage{}
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	if err != nil {
		return fmt.Errorf("unpack the bundle: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		file, body := filepath.Base(name)+".json", []byte(fields[name])
		var s string
		if known, ok := bundleTexts[name]; ok && json.Unmarshal(body, &s) == nil {
			file, body = known, []byte(s)
		} else {
			var pretty bytes.Buffer
			if json.Indent(&pretty, body, "", "  ") == nil {
				body = append(pretty.Bytes(), '\n')
			}
		}
		if err := os.WriteFile(filepath.Join(dir, file), body, 0o600); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(c.Out, "%d bytes, unpacked to %s%c\n", len(packed), dir, filepath.Separator)
	return err
}
