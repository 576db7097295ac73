package buffer

// Room implements drivers.Roomy: false while the class is full and blocks, or
// cannot be written, and events wait for that. A class that is merely busy has
// room: its Append waits for a moment.
func (b *Buffer) Room(class string) bool {
	l := b.lanes[class]
	if l == nil {
		return true // Append says what is wrong
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// Without a waiting event nobody would look whether there is room again.
	return l.pendBytes == 0 || !l.blocked && l.fault == ""
}
