package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// verdict says what becomes of a record that the client gave back.
type verdict uint8

const (
	retry   verdict = iota // passes by itself: produce again, in order
	refused                // stays until somebody changes something: said in words, produced again with long waits
	purge                  // the topic was deleted and made again: forget what is known of it, then produce again
	poison                 // this record can never be taken: set aside, go on
	fenced                 // the broker takes the sender for an older one of the same id, or its transaction took too long
	stopped                // we are stopping: leave it for the next run
)

func (v verdict) String() string {
	return [...]string{"retry", "refused", "purge", "poison", "fenced", "stopped"}[v]
}

// classify decides what becomes of a record that failed with err. A poison
// verdict holds for the whole batch that the record travelled in; which record
// of it is to blame shows when it fails alone.
func classify(err error) verdict {
	if errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, kgo.ErrAborting) || errors.Is(err, context.Canceled) {
		return stopped
	}
	ke, ok := errors.AsType[*kerr.Error](err)
	if !ok {
		return retry
	}
	switch ke {
	case kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord:
		return poison
	case kerr.UnknownTopicID, kerr.InconsistentTopicID:
		return purge
	case kerr.ProducerFenced, kerr.InvalidProducerEpoch:
		return fenced
	case kerr.SaslAuthenticationFailed, kerr.IllegalSaslState, kerr.UnsupportedSaslMechanism,
		kerr.InvalidTransactionTimeout, kerr.InvalidReplicationFactor,
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
		kerr.InvalidTopicException, kerr.PolicyViolation, kerr.UnsupportedCompressionType,
		// A clock that is wrong makes all times wrong, those of gap records too: what is set
		// aside would bring forth the next one to be set aside, without end. The records wait
		// until the clocks agree again, or the topic allows their times.
		kerr.InvalidTimestamp,
		kerr.UnsupportedVersion, kerr.UnsupportedForMessageFormat, kerr.InvalidRequiredAcks, kerr.SecurityDisabled:
		return refused
	}
	return retry
}

// loginRefused marks an error that came up during the login.
type loginRefused struct{ err error }

func (e *loginRefused) Error() string {
	return fmt.Sprintf("the broker refused the login: check sasl.username/password (%v)", e.err)
}
func (e *loginRefused) Unwrap() error { return e.err }

// explain says err in the words of somebody who can do something about it. The
// topic may be empty.
func explain(err error, topic string) string {
	if held, ok := errors.AsType[*heldError](err); ok && held.cause != nil {
		return explain(held.cause, topic)
	}
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		return explainCode(ke, topic)
	}
	if login, ok := errors.AsType[*loginRefused](err); ok {
		return login.Error()
	}
	if token, ok := errors.AsType[*tokenError](err); ok {
		return token.Error()
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("the broker's name %q cannot be resolved: check brokers and the DNS (%v)", dns.Name, err)
	}
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("the broker's certificate was not accepted: check tls.ca and tls.server_name (%v)", cert.Err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Sprintf("the broker's certificate was not accepted: check tls.ca (%v)", err)
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Sprintf("no answer from the broker in time (%v)", err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		if errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Sprintf("cannot connect to %v: connection refused: is Kafka running there?", op.Addr)
		}
		return fmt.Sprintf("cannot connect to %v: %v", op.Addr, op.Err)
	}
	if _, ok := errors.AsType[*kgo.ErrFirstReadEOF](err); !ok && errors.Is(err, io.EOF) {
		return "the broker closed the connection"
	}
	return err.Error()
}

func explainCode(ke *kerr.Error, topic string) string {
	name := ke.Message
	if topic == "" {
		topic = "the topic"
	} else {
		topic = fmt.Sprintf("topic %q", topic)
	}
	switch ke {
	case kerr.SaslAuthenticationFailed, kerr.IllegalSaslState:
		return fmt.Sprintf("the broker refused the login: check sasl.username/password, or what the token is good for (%s)", name)
	case kerr.UnsupportedSaslMechanism:
		return fmt.Sprintf("the broker does not offer this login: check sasl.mechanism (%s)", name)
	case kerr.TopicAuthorizationFailed:
		return fmt.Sprintf("no permission to write %s: grant WRITE and DESCRIBE on it, and CREATE if it is missing (%s)", topic, name)
	case kerr.ClusterAuthorizationFailed:
		return fmt.Sprintf("no permission for idempotent writes: grant IDEMPOTENT_WRITE on the cluster, or WRITE on a topic (%s)", name)
	case kerr.UnknownTopicOrPartition:
		return fmt.Sprintf("%s does not exist and the broker does not create it: create it (%s)", topic, name)
	case forgotten:
		return fmt.Sprintf("the cluster may have lost records of %s that it had acknowledged, or this agent's place among them; sending on (a leader that was behind, or a disk that was set back)", topic)
	case kerr.UnknownTopicID, kerr.InconsistentTopicID:
		return fmt.Sprintf("%s was deleted and made again; producing to the new one (%s)", topic, name)
	case kerr.InvalidTopicException:
		return fmt.Sprintf("the broker does not allow the name of %s: change topic (%s)", topic, name)
	case kerr.UnsupportedCompressionType:
		return fmt.Sprintf("the broker does not take this compression: change compression (%s)", name)
	case kerr.MessageTooLarge, kerr.RecordListTooLarge:
		return fmt.Sprintf("a record is too large for %s: raise max.message.bytes there (%s)", topic, name)
	case kerr.InvalidTimestamp:
		return fmt.Sprintf("the broker does not take the time of a record: is this gateway's clock right? Times ahead of it are replaced once it is; for those too far back raise message.timestamp.before.max.ms of %s until the records are there (%s)", topic, name)
	case kerr.TransactionalIDAuthorizationFailed:
		return fmt.Sprintf("no permission for transactions: grant WRITE and DESCRIBE on transactional ids with the prefix sluice/ (%s)", name)
	case kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress:
		return fmt.Sprintf("the cluster has nobody to coordinate transactions: are transaction.state.log.replication.factor brokers up? (%s)", name)
	case kerr.InvalidTransactionTimeout:
		return fmt.Sprintf("the cluster does not allow transactions of %s: raise transaction.max.timeout.ms (%s)", txnTimeout, name)
	case kerr.ProducerFenced, kerr.InvalidProducerEpoch:
		return fmt.Sprintf("the broker took another sender for the newer one, or a transaction took longer than %s (%s)", txnTimeout, name)
	case kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend:
		return fmt.Sprintf("too few brokers are up to write %s safely (%s)", topic, name)
	}
	return fmt.Sprintf("the broker answered for %s: %s (%s)", topic, ke.Description, name)
}
