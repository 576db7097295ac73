package config

import "time"

// Uplink is one destination.
type Uplink struct {
	Name string `yaml:"-"`
	// A Kafka cluster.
	Kafka *Kafka `yaml:"kafka" required:"unless removed" like:"kafka: { brokers: [ 127.0.0.1:9092 ] }"`
	// Name of the uplink that is sent to while this one is unreachable. That one
	// gets nothing else then: it has no place of its own in the log, and its classes
	// are those that it takes over. See docs/delivery.md.
	Failover string `yaml:"failover"`
	// How long this uplink must have been unreachable before the other takes over.
	FailoverAfter time.Duration `yaml:"failover_after" default:"30s" range:"1s..24h" with:"failover"`
	// How long it must have been reachable again before it gets its place back; twice
	// as long for each time that it failed soon after, 16 times at most. After 20 s
	// away or more not before connections to it are free again, up to 3 minutes.
	FailbackAfter time.Duration `yaml:"failback_after" default:"1m" range:"1s..24h" with:"failover"`
	// true, with no other key: this uplink is gone for good, and what it has not
	// got is given up. An uplink that is only left out keeps its place, and its
	// events are held for it within the limits of their class.
	Removed bool `yaml:"removed"`
}

// Kafka is a producer at a Kafka cluster.
type Kafka struct {
	// First addresses of the cluster, host:port.
	Brokers []string `yaml:"brokers" required:"true" like:"brokers: [ 127.0.0.1:9092 ]"`
	// TLS of the connections; the files are read again at each connect. Left out: none.
	TLS *TLS `yaml:"tls"`
	// Login. Left out: none.
	SASL *SASL `yaml:"sasl"`
	// Topic. Placeholders: {agent} {class} {source} {device} {label.NAME}
	// {mqtt.topic} {mqtt.topic.N}, N counts the levels from 1.
	Topic string `yaml:"topic" default:"sluice.{class}"`
	// Key, with the same placeholders. Empty: the MQTT topic or the device's name.
	Key string `yaml:"key" default:""`
	// What happens around a crash. at_least_once: a few records may come twice.
	// exactly_once: consumers with isolation.level=read_committed see each once.
	// See docs/delivery.md.
	Delivery string `yaml:"delivery" default:"at_least_once" enum:"at_least_once|exactly_once"`
	// Topic of the positions of exactly_once, compacted; made when it is missing.
	PositionTopic string `yaml:"position_topic" default:"sluice.positions"`
	// Compression of record batches.
	Compression string `yaml:"compression" default:"zstd" enum:"none|gzip|snappy|lz4|zstd"`
	// Bytes per second on the wire, compressed and with TLS, of all connections of
	// the uplink together; at least 1KiB. What fits into one second may go out
	// at once. 0: unlimited. With exactly_once a transaction has to be done within
	// 30 s, so that it must be at least max_payload of the sources in 20 s.
	MaxRate Size `yaml:"max_rate" default:"0" range:"0..1TiB"`
	// Share of the link that new events keep while a backlog drains. 0%: strictly
	// oldest first. Backlog records carry the header sluice_late, and order by key
	// holds among them and among the new ones only. Not together with exactly_once.
	// See docs/delivery.md.
	LiveShare Share `yaml:"live_share" default:"0%" range:"0%..99%"`
	// Classes that are sent. Left out: all.
	Classes []string `yaml:"classes"`
	// When events may be sent: a list of days and times of the day such as
	// Mon-Fri 22:00-06:00, Sat,Sun or 12:00-13:30,20:00-24:00. Left out: always. At
	// other times the uplink sends nothing, and events are buffered. See
	// docs/delivery.md.
	Schedule []string `yaml:"schedule"`
	// Time zone of schedule: UTC, local (that of the machine), an offset such as +02:00,
	// or a name such as Europe/Berlin where the machine has a zone database.
	Timezone string `yaml:"timezone" default:"UTC"`
	// What says whether the link is metered: paid for by the byte. Left out: it isn't.
	Metered *Metered `yaml:"metered"`
	// What must hold for events to be sent, beside schedule. Left out: nothing.
	OnlyIf *OnlyIf `yaml:"only_if"`
	// Classes that are sent at all times. Left out: none.
	Always []string `yaml:"always"`
}

// Metered asks a file or a command whether a link is metered; one of the two.
type Metered struct {
	// File that holds yes or no. An empty one means yes, a missing one no.
	File string `yaml:"file"`
	// Program, with an absolute path, and its arguments; without a shell. It prints
	// yes or no, with anything and a colon before it, or nothing: then exit status 0
	// means yes and 1 no. Who may change it decides what runs here: see remote.locked.
	Command []string `yaml:"command"`
	// How often it is asked. What it said counts for two more questions without an
	// answer; then the link counts as metered.
	Every time.Duration `yaml:"every" default:"30s" range:"1s..24h"`
	// How long the command may take; then it is killed.
	Timeout time.Duration `yaml:"timeout" default:"5s" range:"100ms..1m"`
}

// OnlyIf are conditions for sending.
type OnlyIf struct {
	// false: only while the link is not metered. true: only while it is.
	Metered *bool `yaml:"metered"`
}

// SASL is a login at Kafka.
type SASL struct {
	// Mechanism that the brokers offer.
	Mechanism string `yaml:"mechanism" required:"true" enum:"plain|scram-sha-256|scram-sha-512|oauthbearer"`
	// User name; not with oauthbearer.
	Username string `yaml:"username"`
	// Password; not with oauthbearer. A ${file:…} is read again at each connect.
	Password Secret `yaml:"password"`
	// With oauthbearer: the token. A ${file:…} is read again at each connect, so that
	// something else may renew it. Else token_url.
	Token Secret `yaml:"token"`
	// With oauthbearer: endpoint that gives tokens to clients (OAuth 2.0 client
	// credentials), https:// or http://. A token is replaced when four fifths of its
	// life are over. Together with client_id and client_secret.
	TokenURL string `yaml:"token_url"`
	// Name of this client at token_url.
	ClientID string `yaml:"client_id"`
	// Secret of this client at token_url. A ${file:…} is read again for each token.
	ClientSecret Secret `yaml:"client_secret"`
	// What the token is to be good for, words with spaces between. Left out: what
	// token_url gives by itself.
	Scope string `yaml:"scope"`
	// With oauthbearer: extensions that the brokers ask for, such as logicalCluster.
	Extensions map[string]string `yaml:"extensions"`
	// TLS of https:// in token_url. Left out: the authorities of the system.
	TLS *TLS `yaml:"tls"`
}
