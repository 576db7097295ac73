package buffer

import "testing"

func TestMemoryGoesToTheClassesThatKeepMuch(t *testing.T) {
	const mib = 1 << 20
	cfg := Config{Memory: 16 * mib, Classes: []Class{{Name: "process", KeepBytes: 1 << 30}, {Name: "alarm", KeepBytes: 16 * mib},
		{Name: "wide", KeepBytes: 1 << 30}, {Name: "tiny", KeepBytes: mib}}}
	for i, want := range []int64{(8*mib - mib - 256<<10) / 2, mib, (8*mib - mib - 256<<10) / 2, 256 << 10} {
		if got := memoryShare(cfg, cfg.Classes[i]); got != want {
			t.Errorf("%s has %d, want %d", cfg.Classes[i].Name, got, want)
		}
	}
	cfg.Memory = 1 << 10
	if got := memoryShare(cfg, cfg.Classes[0]); got != 256<<10 {
		t.Error("the least is", got)
	}
}
