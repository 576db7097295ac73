package modbus

import (
	"context"
	"crypto/tls"
	"time"

	mb "github.com/goburrow/modbus"
)

// commissionBackoff is the longest wait between two connects: somebody stands
// there and waits.
const commissionBackoff = 500 * time.Millisecond

// openLink makes the connection of a Bus from the text of the config; it
// connects with the first request.
func openLink(connection string, tls func() (*tls.Config, error), timeout, gap time.Duration) (*link, error) {
	to, err := parseConnection(connection)
	if err != nil {
		return nil, err
	}
	to.tls = tls
	return newLink(to, timeout, gap, commissionBackoff), nil
}

// ask sends one request of any function and returns the answer, whose data is
// valid until the next request. Errors are those of read.
func (b *Bus) ask(ctx context.Context, unit byte, request *mb.ProtocolDataUnit) (*mb.ProtocolDataUnit, error) {
	return b.link.exchange(ctx, unit, request, time.Time{})
}
