package config

import (
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "250ms": 250 * time.Millisecond, "5s": 5 * time.Second, "10m": 10 * time.Minute, "72h": 72 * time.Hour, "1h30m": 90 * time.Minute, "1.5s": 1500 * time.Millisecond, "20us": 20 * time.Microsecond,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
		if again, err := parseDuration(formatDuration(want)); err != nil || again != want {
			t.Errorf("%v is written as %q", want, formatDuration(want))
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "0B": 0, "1B": 1, "64KiB": 64 << 10, "16MiB": 16 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40, "1PiB": 1 << 50, "1KB": 1000, "1kB": 1000, "3MB": 3e6, "1GB": 1e9, "1.5KiB": 1536, "64 KiB": 64 << 10,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
		if again, err := parseSize(want.String()); err != nil || again != want {
			t.Errorf("%d is written as %q", want, want)
		}
	}
	for _, text := range []string{"", "1", "KiB", "1Ki", "1 KiB x", "1e400KiB", "NaNKiB", "infB", "0x1KiB", "1kib"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is taken as %d", text, got)
		}
	}
}

func TestShares(t *testing.T) {
	for text, want := range map[string]Share{"0": 0, "0%": 0, "5%": 0.05, "12.5 %": 0.125, "100%": 1} {
		if got, err := parseShare(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
		if again, err := parseShare(want.String()); err != nil || again != want {
			t.Errorf("%v is written as %q", float64(want), want)
		}
	}
	for _, text := range []string{"", "5", "%", "NaN%", "x%", "5%%"} {
		if got, err := parseShare(text); err == nil {
			t.Errorf("%q is taken as %v", text, got)
		}
	}
}

func TestNearestKey(t *testing.T) {
	words := []string{"servers", "subscribe", "decode", "client_id", "at"}
	for key, want := range map[string]string{
		"server": "servers", "Servers": "servers", "subscribes": "subscribe", "clientid": "client_id", "client-id": "client_id", "decoder": "decode", "password": "", "x": "", "": "",
	} {
		if got, _ := nearest(key, words); got != want {
			t.Errorf("%q is nearest to %q, want %q", key, got, want)
		}
	}
}
