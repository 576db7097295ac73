package mqtt

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// Limits of connecting.
const (
	connectTimeout   = 10 * time.Second // for the socket, and again for TLS and CONNACK
	websocketTimeout = 5 * time.Second  // paho's opener takes no context, so a stop may wait this long
)

// secure says whether TLS is spoken with a server.
func secure(server *url.URL) bool { return server.Scheme == "ssl" || server.Scheme == "wss" }

// dial opens the socket to a server, with TLS or a websocket where its scheme
// asks for it. Proxy variables of the environment are not used for tcp and ssl.
func dial(ctx context.Context, server *url.URL, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var dialer net.Dialer
	switch server.Scheme {
	case "tcp":
		return dialer.DialContext(ctx, "tcp", server.Host)
	case "ssl":
		secure := tls.Dialer{NetDialer: &dialer, Config: config}
		return secure.DialContext(ctx, "tcp", server.Host)
	case "ws":
		return paho.NewWebsocket(server.String(), nil, websocketTimeout, nil, nil)
	case "wss":
		return paho.NewWebsocket(server.String(), config, websocketTimeout, nil, nil)
	}
	return nil, fmt.Errorf("scheme %q is unknown", server.Scheme)
}
