package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/drivers"
)

const (
	probeLimit    = 10 * time.Second    // for each broker, and for the questions about topics
	expiresSoon   = 30 * 24 * time.Hour // a certificate that is told
	opWrite       = 4                   // AclOperation.WRITE, the bit in authorized operations (KIP-430)
	opsUnknown    = -1 << 31            // the broker does not tell
	largestTopics = 100                 // that are asked for
)

// Check is what Probe found out about one thing.
type Check struct {
	What    string `json:"what"` // "broker 10.0.0.5:9092", "topic plant.process"
	OK      bool   `json:"ok"`
	Warning bool   `json:"warning,omitempty"` // it works, but somebody should look at it
	Detail  string `json:"detail"`            // what was found, and what to do
}

// Probe connects to each broker of cfg once, logs in, and looks at the topics that
// the sample events would go to, without writing anything. cfg.Reader is not
// needed. largest is the largest payload that the sources let through, 0 if
// that is not known. It takes 10 s for each broker at most, or until ctx ends.
func Probe(ctx context.Context, cfg Config, samples []drivers.Event, largest int64) ([]Check, error) {
	cfg = cfg.withDefaults()
	cfg.Reader = noLog{}
	k, err := New(cfg)
	if err != nil {
		return nil, err
	}
	var checks []Check
	var client *kgo.Client
	for _, broker := range cfg.Brokers {
		c, check := k.probeBroker(ctx, broker)
		checks = append(checks, check)
		switch {
		case c == nil:
		case client == nil:
			client = c
			defer client.Close()
		default:
			c.Close()
		}
	}
	if client == nil {
		return checks, nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	checks = append(checks, probeProducer(ctx, client))
	names, open := k.sampleTopics(samples)
	if open {
		checks = append(checks, Check{What: "topics", OK: true, Detail: "their names come from MQTT topics: those that are not known yet were not looked at"})
	}
	return append(checks, probeTopics(ctx, client, names, largest)...), nil
}

// noLog is the log of an uplink that sends nothing.
type noLog struct{ Log }

func (noLog) Ack(string, uint64) {}

// probeBroker returns a client that is logged in at the broker, or nil.
func (k *Kafka) probeBroker(ctx context.Context, broker string) (*kgo.Client, Check) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	check := Check{What: "broker " + broker}
	client, err := k.newClient(kgo.SeedBrokers(broker), kgo.RequestRetries(1))
	if err != nil {
		check.Detail = err.Error()
		return nil, check
	}
	began := time.Now()
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client)
	if err != nil {
		client.Close()
		k.health.mu.Lock()
		check.Detail = k.health.lastError
		k.health.mu.Unlock()
		if check.Detail == "" {
			check.Detail = explain(err, "")
		}
		return nil, check
	}
	check.OK = true
	check.Detail = fmt.Sprintf("answers in %v, %s in the cluster", time.Since(began).Round(time.Millisecond), counted(len(resp.Brokers), "broker", "brokers"))
	if k.cfg.TLS != nil {
		k.probeCertificate(ctx, broker, &check)
	}
	if gone := k.unreachable(ctx, resp.Brokers); gone != "" {
		check.Warning = true
		check.Detail += "; " + gone
	}
	return client, check
}

// probeCertificate adds when the broker's certificate ends.
func (k *Kafka) probeCertificate(ctx context.Context, broker string, check *Check) {
	config, err := k.cfg.tlsFor(broker)
	if err != nil {
		return // as below
	}
	d := tls.Dialer{Config: config}
	conn, err := d.DialContext(ctx, "tcp", broker)
	if err != nil {
		return // the client got through: it is said there
	}
	defer conn.Close()
	secure, ok := conn.(*tls.Conn)
	if !ok || len(secure.ConnectionState().PeerCertificates) == 0 {
		return
	}
	ends := secure.ConnectionState().PeerCertificates[0].NotAfter
	check.Detail += ", certificate until " + ends.UTC().Format(time.DateOnly)
	check.Warning = check.Warning || time.Until(ends) < expiresSoon
}

// unreachable names the brokers that a producer will be sent to and that cannot
// be reached from here: a usual mistake of advertised.listeners.
func (k *Kafka) unreachable(ctx context.Context, brokers []kmsg.MetadataResponseBroker) string {
	var gone []string
	for _, b := range brokers {
		addr := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			gone = append(gone, addr)
			continue
		}
		conn.Close()
	}
	if len(gone) == 0 {
		return ""
	}
	return fmt.Sprintf("the cluster sends producers to %s, which cannot be reached from here: check advertised.listeners there and the DNS here", strings.Join(gone, ", "))
}

// probeProducer asks whether this login may write idempotently.
func probeProducer(ctx context.Context, client *kgo.Client) Check {
	resp, err := kmsg.NewPtrInitProducerIDRequest().RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	check := Check{What: "producer", OK: err == nil, Detail: "may write idempotently"}
	if err != nil {
		check.Detail = explain(err, "")
	}
	return check
}

// sampleTopics are the topics that events like these go to; open says that there
// may be others.
func (k *Kafka) sampleTopics(samples []drivers.Event) (names []string, open bool) {
	open = slices.ContainsFunc(k.encoder.topic.parts, func(p part) bool { return p.kind == partMQTTTopic })
	for i := range samples {
		if open && samples[i].Type == drivers.TypeMQTTMessage {
			continue
		}
		name := legalTopic(k.encoder.topic.append(nil, &samples[i]))
		if !slices.Contains(names, name) && len(names) < largestTopics {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, open
}

func probeTopics(ctx context.Context, client *kgo.Client, names []string, largest int64) []Check {
	if len(names) == 0 {
		return nil
	}
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	for _, name := range names {
		req.Topics = append(req.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr(name)})
	}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return []Check{{What: "topics", Detail: explain(err, "")}}
	}
	configs := topicConfigs(ctx, client, names)
	var checks []Check
	for _, t := range resp.Topics {
		if t.Topic != nil {
			checks = append(checks, judgeTopic(t, configs[*t.Topic], len(resp.Brokers), largest))
		}
	}
	slices.SortFunc(checks, func(a, b Check) int { return strings.Compare(a.What, b.What) })
	return checks
}

// judgeTopic says whether records can go to a topic, and what may go wrong.
func judgeTopic(t kmsg.MetadataResponseTopic, config map[string]string, brokers int, largest int64) Check {
	check := Check{What: "topic " + *t.Topic}
	err := kerr.ErrorForCode(t.ErrorCode)
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		check.OK, check.Warning = true, true
		check.Detail = "does not exist: the broker makes it with the first record if auto.create.topics.enable allows that; better make it, with the partitions and copies that you want"
		return check
	case err != nil:
		check.Detail = explain(err, *t.Topic)
		return check
	case t.AuthorizedOperations != opsUnknown && t.AuthorizedOperations>>opWrite&1 == 0:
		check.Detail = "no permission to write: grant WRITE on it to this user"
		return check
	}
	check.OK = true
	replicas := 0
	for _, p := range t.Partitions {
		replicas = max(replicas, len(p.Replicas))
	}
	said := []string{counted(len(t.Partitions), "partition", "partitions") + ", " + counted(replicas, "copy", "copies")}
	warn := func(format string, args ...any) {
		check.Warning = true
		said = append(said, fmt.Sprintf(format, args...))
	}
	if replicas == 1 && brokers > 2 {
		warn("each record is on one broker only: raise its replication factor")
	} else if replicas > 1 && config["min.insync.replicas"] == "1" {
		warn("min.insync.replicas is 1, so that a record counts as written with one copy: set 2")
	}
	if limit, err := strconv.ParseInt(config["max.message.bytes"], 10, 64); err == nil && largest > limit {
		warn("max.message.bytes is %d and sources let %d through: larger ones are set aside, with a gap record", limit, largest)
	}
	if strings.Contains(config["cleanup.policy"], "compact") {
		warn("cleanup.policy is %s: older records with the same key vanish", config["cleanup.policy"])
	}
	check.Detail = strings.Join(said, "; ")
	return check
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// topicConfigs returns what of the topics' settings may be read by this user.
func topicConfigs(ctx context.Context, client *kgo.Client, names []string) map[string]map[string]string {
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, name := range names {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		r.ConfigNames = []string{"min.insync.replicas", "max.message.bytes", "cleanup.policy"}
		req.Resources = append(req.Resources, r)
	}
	out := map[string]map[string]string{}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return out // it is for warnings only
	}
	for _, r := range resp.Resources {
		out[r.ResourceName] = map[string]string{}
		for _, c := range r.Configs {
			if c.Value != nil {
				out[r.ResourceName][c.Name] = *c.Value
			}
		}
	}
	return out
}
