package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestClassifyEveryCode goes through all codes of the protocol: what is not in
// one of the lists is produced again.
func TestClassifyEveryCode(t *testing.T) {
	lists := map[verdict][]*kerr.Error{
		poison: {kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord},
		purge:  {kerr.UnknownTopicID, kerr.InconsistentTopicID},
		refused: {
			kerr.InvalidTopicException, kerr.InvalidTimestamp, kerr.InvalidRequiredAcks, kerr.TopicAuthorizationFailed,
			kerr.ClusterAuthorizationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState,
			kerr.UnsupportedVersion, kerr.UnsupportedForMessageFormat, kerr.PolicyViolation,
			kerr.TransactionalIDAuthorizationFailed, kerr.SecurityDisabled, kerr.SaslAuthenticationFailed,
			kerr.UnsupportedCompressionType, kerr.InvalidTransactionTimeout, kerr.InvalidReplicationFactor,
		},
		fenced: {kerr.ProducerFenced, kerr.InvalidProducerEpoch},
	}
	want := map[int16]verdict{}
	for v, codes := range lists {
		for _, e := range codes {
			want[e.Code] = v
		}
	}
	for code := int16(-1); code < 140; code++ {
		err := kerr.ErrorForCode(code)
		if err == nil {
			continue
		}
		for _, err := range []error{err, fmt.Errorf("wrapped: %w", err)} {
			if got := classify(err); got != want[code] {
				t.Errorf("%v: %v, want %v", err, got, want[code])
			}
			if text := explain(err, "plant.process"); text == "" {
				t.Errorf("%v: nothing is said", err)
			}
		}
	}
}

func TestClassifyOtherErrors(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want verdict
	}{
		{"client closed", kgo.ErrClientClosed, stopped},
		{"aborted", fmt.Errorf("x: %w", kgo.ErrAborting), stopped},
		{"cancelled", context.Canceled, stopped},
		{"connection closed", io.EOF, retry},
		{"deadline", context.DeadlineExceeded, retry},
		{"purged", errors.New("topic purged while buffered"), retry},
		{"record timeout", kgo.ErrRecordTimeout, retry},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := classify(tt.err); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestExplainSaysWhatToDo(t *testing.T) {
	dial := &net.OpError{Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9092}, Err: errors.New("connection refused")}
	tests := []struct {
		name, topic string
		err         error
		want        []string
	}{
		{"login", "", kerr.SaslAuthenticationFailed, []string{"refused the login", "sasl.username/password", "SASL_AUTHENTICATION_FAILED"}},
		{"hung up at the login", "", &loginRefused{io.EOF}, []string{"refused the login", "sasl.username/password"}},
		{"mechanism", "", kerr.UnsupportedSaslMechanism, []string{"sasl.mechanism"}},
		{"acl", "plant.process", kerr.TopicAuthorizationFailed, []string{`no permission to write topic "plant.process"`}},
		{"idempotence", "", kerr.ClusterAuthorizationFailed, []string{"IDEMPOTENT_WRITE"}},
		{"no topic", "x", kerr.UnknownTopicOrPartition, []string{`topic "x" does not exist`, "create it"}},
		{"too large", "x", kerr.MessageTooLarge, []string{"max.message.bytes"}},
		{"transactional id", "", kerr.TransactionalIDAuthorizationFailed, []string{"sluice/", "WRITE and DESCRIBE"}},
		{"no coordinator", "", kerr.CoordinatorNotAvailable, []string{"transaction.state.log.replication.factor"}},
		{"short transactions", "", kerr.InvalidTransactionTimeout, []string{"transaction.max.timeout.ms", "30s"}},
		{"forgotten", "x", forgotten, []string{"may have lost records of topic \"x\"", "sending on"}},
		{"fenced", "", kerr.ProducerFenced, []string{"another sender", "30s"}},
		{"refused connection", "", fmt.Errorf("unable to dial: %w", dial), []string{"cannot connect to 127.0.0.1:9092: connection refused"}},
		{"name", "", &net.DNSError{Name: "kafka", Err: "no such host", IsNotFound: true}, []string{`"kafka" cannot be resolved`}},
		{"no answer", "", fmt.Errorf("x: %w", context.DeadlineExceeded), []string{"no answer"}},
		{"closed", "", io.EOF, []string{"closed the connection"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := explain(tt.err, tt.topic)
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in %q", want, got)
				}
			}
		})
	}
}
