package remote

import (
	"encoding/json"
	"testing"
)

// What is promised of a record is in each, also where there is nothing to tell.
func TestAStatusHasWhatIsPromised(t *testing.T) {
	b, err := json.Marshal(StatusRecord{})
	if err != nil {
		t.Fatal(err)
	}
	var record, cfg map[string]json.RawMessage
	if err = json.Unmarshal(b, &record); err == nil {
		err = json.Unmarshal(record["config"], &cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"agent", "version", "boot", "time", "config", "buffer", "sources", "uplinks", "commands"} {
		if _, has := record[key]; !has {
			t.Errorf("no %s in %s", key, b)
		}
	}
	for _, key := range []string{"desired", "running", "hash", "state", "code", "reason", "since"} {
		if _, has := cfg[key]; !has {
			t.Errorf("no config.%s in %s", key, b)
		}
	}
}
