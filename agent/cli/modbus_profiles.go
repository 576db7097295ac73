package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"sluice/drivers/modbus/profiles"
)

// modbusProfiles lists the built-in register maps.
func modbusProfiles(_ context.Context, c *call, v modbusVerb) error {
	js := c.flags.Bool("json", false, "print JSON")
	if words, err := c.words(v); err != nil {
		return err
	} else if len(words) > 0 {
		return c.wrong("unexpected %q", words[0])
	}
	if !*js {
		for _, p := range profiles.All() {
			fmt.Fprintf(c.Out, "%s\n    %s\n", p.Name, p.Device)
		}
		return nil
	}
	type line struct {
		Name   string `json:"name"`
		Device string `json:"device"`
		Limit  int    `json:"max_registers,omitempty"`
	}
	list := []line{}
	for _, p := range profiles.All() {
		list = append(list, line{p.Name, p.Device, p.Limit})
	}
	enc := json.NewEncoder(c.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(list)
}

// modbusProfile prints one of them as it would stand in a config.
func modbusProfile(_ context.Context, c *call, v modbusVerb) error {
	words, err := c.words(v)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return c.wrong("it needs one NAME, and there are %d words", len(words))
	}
	p, ok := profiles.Find(words[0])
	if !ok {
		return c.wrong("there is no built-in profile %q (sluice modbus profiles lists them)", words[0])
	}
	_, err = fmt.Fprint(c.Out, p.Config())
	return err
}
