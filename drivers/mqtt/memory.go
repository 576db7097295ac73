package mqtt

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// maxMemory bounds what is read of a memory's file.
const maxMemory = 4 << 20

// errForgotten is a broker that lost what it should have kept for us.
var errForgotten = errors.New("the broker has forgotten the session of this client_id: what it kept for it while the agent was away is lost " +
	"(mosquitto: persistence true, no persistent_client_expiration)")

// memory is what one session at one broker may be subscribed to. A broker keeps
// the filters of a persistent session, and nothing in MQTT 3.1.1 asks which they
// are; so they are written down before they are subscribed, and struck off when
// the broker has confirmed that they are unsubscribed. A kill in between leaves
// a filter that is unsubscribed in vain, never one that is forgotten.
type memory struct {
	ClientID string   `json:"client_id"`
	Server   string   `json:"server"`
	Filters  []string `json:"filters"` // sorted
}

// path is that of the memory's file. Client id and server are what makes
// a session one, and may hold any character.
func (m memory) path(dir string) string {
	sum := sha256.Sum256([]byte(m.ClientID + "\x00" + m.Server))
	return filepath.Join(dir, hex.EncodeToString(sum[:8])+".json")
}

// recall reads the filters of m's session; none if there is no file yet.
func (m memory) recall(dir string) ([]string, error) {
	f, err := os.Open(m.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMemory))
	if err != nil {
		return nil, err
	}
	filters, err := m.decode(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return filters, nil
}

// decode reads a memory's file. Nothing that is no filter comes out of it: it
// would end the connection.
func (m memory) decode(text []byte) ([]string, error) {
	var stored memory
	if err := json.Unmarshal(text, &stored); err != nil {
		return nil, err
	}
	if stored.ClientID != m.ClientID || stored.Server != m.Server {
		return nil, errors.New("is that of another session")
	}
	return slices.DeleteFunc(stored.Filters, func(filter string) bool { return checkFilter(filter) != nil }), nil
}

// save writes m durably, in place of what was there.
func (m memory) save(dir string) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp := m.path(dir) + ".tmp"
	if err := writeSynced(tmp, append(text, '\n')); err != nil {
		return err
	}
	if err := os.Rename(tmp, m.path(dir)); err != nil {
		return err
	}
	return syncDir(dir)
}

func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// leftOver returns the filters that the broker's session may hold and the
// config doesn't, and writes down what it may hold from now on. Without its
// memory a source works all the same: what comes by such a filter has no route.
func (s *Source) leftOver(ss *session) []string {
	if s.cfg.SessionDir == "" {
		return nil
	}
	ss.memory = memory{ClientID: s.cfg.ClientID, Server: ss.server}
	known, err := ss.memory.recall(s.cfg.SessionDir)
	if err != nil {
		s.stats.failed(fmt.Sprintf("read the filters of the last run: %v", err))
	}
	ss.memory.Filters = known
	var gone []string
	switch {
	case ss.conn.resumed.Load():
		gone = slices.DeleteFunc(slices.Clone(known), s.subscribes)
	case len(known) > 0:
		s.stats.failed(fmt.Sprintf("%s: %v", ss.server, errForgotten))
	}
	s.remember(ss, gone)
	return gone
}

func (s *Source) subscribes(filter string) bool {
	return slices.ContainsFunc(s.cfg.Subscriptions, func(sub Subscription) bool { return sub.Filter == filter })
}

// remember writes down that the session may hold the config's filters and more.
func (s *Source) remember(ss *session, more []string) {
	filters := slices.Clone(more)
	for _, sub := range s.cfg.Subscriptions {
		filters = append(filters, sub.Filter)
	}
	slices.Sort(filters)
	filters = slices.Compact(filters)
	if slices.Equal(filters, ss.memory.Filters) {
		return
	}
	ss.memory.Filters = filters
	if err := ss.memory.save(s.cfg.SessionDir); err != nil {
		s.stats.failed(fmt.Sprintf("write down which filters are subscribed: %v (one that is removed from the config may stay subscribed)", err))
	}
}
