//go:build !linux

package cli

import "errors"

// askPassphrase cannot ask here.
func askPassphrase(string) ([]byte, error) {
	return nil, errors.New("a passphrase can be asked for on Linux only (--passphrase-file)")
}
