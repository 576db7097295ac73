package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/gorilla/websocket"
)

// explain says what an error of a connection means to the person in front of
// the switch cabinet, and what to look at. It never shows a secret.
func explain(err error) string {
	for _, try := range []func(error) string{explainConnack, explainTLS, explainSocket} {
		if words := try(err); words != "" {
			return words
		}
	}
	return err.Error()
}

// explainConnack reads the return codes of CONNACK, MQTT 3.1.1 §3.2.2.3.
func explainConnack(err error) string {
	switch {
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword), errors.Is(err, packets.ErrorRefusedNotAuthorised):
		return "not authorised: check username and password, and that this client_id may connect"
	case errors.Is(err, packets.ErrorRefusedIDRejected):
		return "the broker refuses the client_id: check client_id"
	case errors.Is(err, packets.ErrorRefusedServerUnavailable):
		return "the broker says that its service is unavailable"
	case errors.Is(err, packets.ErrorRefusedBadProtocolVersion):
		return "the broker does not speak MQTT 3.1.1"
	}
	return ""
}

func explainTLS(err error) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		remote    *net.OpError
	)
	switch {
	case errors.As(err, &authority):
		return "the broker's certificate is signed by an unknown authority: check tls.ca"
	case errors.As(err, &name):
		return fmt.Sprintf("the broker's certificate is not for %q: check the server's name and tls.server_name", name.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the broker's certificate is expired or not valid yet: check it and this gateway's clock"
	case errors.As(err, &record):
		return "the broker does not speak TLS on this port: check the port, or use tcp://"
	case errors.As(err, &remote) && remote.Op == "remote error": // a TLS alert, which has no exported type
		return fmt.Sprintf("the broker refuses our TLS (%s): check tls.cert and tls.key", remote.Err)
	}
	return ""
}

func explainSocket(err error) string {
	var (
		dns     *net.DNSError
		timeout net.Error
		path    *fs.PathError
		closed  *websocket.CloseError
	)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: is the broker running there?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to the broker: check the address and the cable"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the connection was reset by the broker or something on the way: does it expect TLS on this port, or none?"
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %q cannot be resolved: check it and the DNS server", dns.Name)
	case errors.As(err, &path):
		return err.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time: check address, port and firewall"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &closed):
		return "the broker closed the connection: does it expect TLS or MQTT on another port, or does another client use the same client_id?"
	case strings.Contains(err.Error(), "pingresp not received"):
		return "the broker does not answer pings any more"
	}
	return ""
}
