package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sluice/buffer"
	"sluice/drivers"
)

// backlog is "backlog DIR": a data directory with five events of the class process
// that wait for the uplink central.
func backlog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: backlog DIR")
	}
	b, err := buffer.Open(buffer.Config{Dir: ts.MkAbs(args[0]), Classes: []buffer.Class{{Name: "process"}}, Uplinks: map[string][]string{"central": nil}})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended, durable := make(chan error, 1), make(chan error, 5)
	go func() { ended <- b.Run(ctx) }()
	for range cap(durable) {
		e := drivers.Event{Class: "process", Source: "line", Subject: "a/b", Type: drivers.TypeMQTTMessage, ContentType: drivers.ContentJSON,
			Time: time.Unix(1_700_000_000, 0).UTC(), Payload: []byte(`{"a":1}`)}
		ts.Check(b.Append(ctx, e, func(err error) { durable <- err }))
	}
	for range cap(durable) {
		ts.Check(<-durable)
	}
	cancel()
	ts.Check(<-ended)
	ts.Check(b.Close())
}

// newer is "newer FILE": the file of a buffer says that it has format 2. What a
// segment says of itself ends with its checksum; a slot has it in its header.
func newer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: newer FILE")
	}
	table, was := crc32.MakeTable(crc32.Castagnoli), []byte(`{"format":1,`)
	b, changed := []byte(ts.ReadFile(args[0])), 0
	for at := 0; ; changed++ {
		n := bytes.Index(b[at:], was)
		if n < 0 {
			break
		}
		at += n
		b[at+len(was)-2] = '2'
		if strings.HasSuffix(args[0], ".seg") {
			size := bytes.IndexByte(b[at:], '}') + 1
			binary.BigEndian.PutUint32(b[at+size:], crc32.Checksum(b[at:][:size], table))
			continue
		}
		slot := b[at-24:]
		size := binary.BigEndian.Uint32(slot[16:])
		binary.BigEndian.PutUint32(slot[20:], crc32.Update(crc32.Checksum(slot[:20], table), table, slot[24:][:size]))
	}
	if changed == 0 {
		ts.Fatalf("%s has no format", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}
