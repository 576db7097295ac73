package mqtt

// idTable finds deliveries by packet id. Brokers count their ids up, so that
// a table of pages is nearer to the processor than a map, and takes 512 KiB at
// most. The zero value is empty and ready.
type idTable struct {
	pages [256]*[256]*delivery
	count int
}

// get returns nil for an id that is not there.
func (t *idTable) get(id uint16) *delivery {
	if page := t.pages[id>>8]; page != nil {
		return page[id&255]
	}
	return nil
}

// put replaces what is there; nil takes it away.
func (t *idTable) put(id uint16, d *delivery) {
	page := t.pages[id>>8]
	if page == nil {
		if d == nil {
			return
		}
		page = new([256]*delivery)
		t.pages[id>>8] = page
	}
	if page[id&255] != nil {
		t.count--
	}
	if d != nil {
		t.count++
	}
	page[id&255] = d
}

func (t *idTable) len() int { return t.count }

func (t *idTable) clear() { *t = idTable{} }
