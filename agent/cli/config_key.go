package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"sluice/agent/remote/trust"
)

const (
	maxKeyFile    = 64 << 10
	signerTimeout = 2 * time.Minute // somebody may have to touch a card
)

// configKeygen makes a key pair: an OpenSSH file, and beside it the entry for
// remote.trust.
func configKeygen(_ context.Context, c *call) error {
	passphrases := c.flags.String("passphrase-file", "", "`file` with the passphrase in its first line (default: asked for)")
	none := c.flags.Bool("no-passphrase", false, "write the key without a passphrase: whoever reads the file can sign")
	comment := c.flags.String("comment", "", "`text` that the key file carries")
	if err := c.parse(1); err != nil {
		return err
	}
	var passphrase []byte
	if !*none {
		var err error
		if passphrase, err = newPassphrase(*passphrases); err != nil {
			return err
		}
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	var block *pem.Block
	if *none {
		block, err = ssh.MarshalPrivateKey(private, *comment)
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, *comment, passphrase)
	}
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	path, key := c.rest[0], trust.Key{Public: public}
	if err := writeNew(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	if err := writeNew(path+".pub", []byte(key.String()+"\n"), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "key %s\nprivate: %s (keep it off the gateways)\npublic:  %s.pub, the entry for remote.trust\n", key.ID(), path, path)
	return err
}

// writeNew writes a file that must not be there yet, and syncs it.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already and is left alone", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// newPassphrase is one for a new key: of a file, or asked for twice.
func newPassphrase(file string) ([]byte, error) {
	if file != "" {
		return passphraseOf(file)
	}
	one, err := askPassphrase("passphrase for the new key: ")
	if err != nil {
		return nil, fmt.Errorf("%w (--passphrase-file, or --no-passphrase)", err)
	}
	two, err := askPassphrase("once more: ")
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(one, two):
		return nil, errors.New("the passphrases differ")
	case len(one) == 0:
		return nil, errors.New("the passphrase is empty (--no-passphrase, if that is meant)")
	}
	return one, nil
}

func passphraseOf(file string) ([]byte, error) {
	data, err := readLimited(file, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
		return nil, fmt.Errorf("the first line of %s is empty: no passphrase", file)
	}
	return line, nil
}

// signer makes signatures of one key.
type signer struct {
	key  trust.Key
	sign func(pae []byte) ([]byte, error)
}

// signerFlags are the three ways to sign.
type signerFlags struct {
	key, passphrases string
	agent            string
	command, public  string
}

func (c *call) signerFlags() *signerFlags {
	var f signerFlags
	c.flags.StringVar(&f.key, "key", "", "sign with this OpenSSH ed25519 key `file`")
	c.flags.StringVar(&f.passphrases, "passphrase-file", "", "`file` with the passphrase of --key in its first line (default: asked for)")
	c.flags.StringVar(&f.agent, "agent", "", "sign with the ed25519 key of this `id` (as keygen shows it, or \"any\") in the ssh-agent of SSH_AUTH_SOCK")
	c.flags.StringVar(&f.command, "signer", "", "sign with a `command` that gets the bytes to sign on standard input and writes the 64 bytes of the signature; together with --public")
	c.flags.StringVar(&f.public, "public", "", "the public `key` of --signer, ed25519:BASE64")
	return &f
}

// open makes the signer that exactly one of the ways names.
func (f *signerFlags) open(ctx context.Context, c *call) (*signer, func(), error) {
	done := func() {}
	ways := 0
	for _, way := range []string{f.key, f.agent, f.command} {
		if way != "" {
			ways++
		}
	}
	if ways != 1 {
		return nil, done, usageError{fmt.Errorf("%s: one of --key, --agent and --signer is needed", c.name)}
	}
	switch {
	case f.key != "":
		s, err := fileSigner(f.key, f.passphrases)
		return s, done, err
	case f.command != "":
		s, err := commandSigner(ctx, f.command, f.public)
		return s, done, err
	}
	socket, _ := c.Env("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, done, errors.New("SSH_AUTH_SOCK is not set: is an ssh-agent running?")
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, done, fmt.Errorf("ssh-agent: %w", err)
	}
	s, err := agentSigner(agent.NewClient(conn), f.agent)
	return s, func() { _ = conn.Close() }, err // nothing is left to lose
}

// fileSigner signs with a key file of OpenSSH.
func fileSigner(path, passphrases string) (*signer, error) {
	data, err := readLimited(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	raw, err := ssh.ParseRawPrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		var passphrase []byte
		if passphrases != "" {
			passphrase, err = passphraseOf(passphrases)
		} else {
			passphrase, err = askPassphrase("passphrase of " + path + ": ")
		}
		if err != nil {
			return nil, err
		}
		raw, err = ssh.ParseRawPrivateKeyWithPassphrase(data, passphrase)
	}
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, fmt.Errorf("read the key %s: the passphrase is wrong", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", path, err)
	}
	private, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is no ed25519 key (sluice config keygen or ssh-keygen -t ed25519 makes one)", path)
	}
	public, _ := private.Public().(ed25519.PublicKey)
	return &signer{trust.Key{Public: public}, func(pae []byte) ([]byte, error) { return ed25519.Sign(*private, pae), nil }}, nil
}

// agentSigner signs with a key that an ssh-agent holds. What is signed begins
// with "DSSEv1", so that it cannot be a login somewhere.
func agentSigner(client agent.ExtendedAgent, id string) (*signer, error) {
	keys, err := client.List()
	if err != nil {
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	var found []*signer
	for _, k := range keys {
		parsed, err := ssh.ParsePublicKey(k.Blob)
		if err != nil || parsed.Type() != ssh.KeyAlgoED25519 {
			continue
		}
		withKey, ok := parsed.(ssh.CryptoPublicKey)
		if !ok {
			continue
		}
		public, ok := withKey.CryptoPublicKey().(ed25519.PublicKey)
		if !ok || id != "any" && trust.KeyID(public) != id {
			continue
		}
		found = append(found, &signer{trust.Key{Public: public}, func(pae []byte) ([]byte, error) {
			sig, err := client.Sign(parsed, pae)
			if err != nil {
				return nil, fmt.Errorf("ssh-agent: %w", err)
			}
			return sig.Blob, nil
		}})
	}
	switch {
	case len(found) == 0:
		return nil, fmt.Errorf("the ssh-agent has no ed25519 key %s", id)
	case len(found) > 1:
		return nil, fmt.Errorf("the ssh-agent has %d ed25519 keys: name one, such as --agent %s", len(found), found[0].key.ID())
	}
	return found[0], nil
}

// commandSigner signs with a command of the operator, for cards and key services.
func commandSigner(ctx context.Context, command, public string) (*signer, error) {
	key, err := trust.ParseKey(public)
	if err != nil {
		return nil, usageError{fmt.Errorf("--public %w", err)}
	}
	words := strings.Fields(command)
	return &signer{key, func(pae []byte) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, signerTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, words[0], words[1:]...)
		cmd.Stdin, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(pae), os.Stderr, time.Second
		sig, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", words[0], err)
		}
		if len(sig) != ed25519.SignatureSize {
			return nil, fmt.Errorf("%s wrote %d bytes (a signature has %d)", words[0], len(sig), ed25519.SignatureSize)
		}
		return sig, nil
	}}, nil
}
