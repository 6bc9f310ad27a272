// Package sshserver is as much of an sshd as a guest needs that is asked to go
// down: it lets one key in, as root, and runs commands that end at once.
package sshserver

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"
)

// Serve speaks SSH on one connection until it ends. Line is the key's in
// authorized_keys; run gets each command and returns its exit status, or a
// negative number for a command that does not end.
func Serve(conn net.Conn, line string, run func(command string) int) error {
	config, err := configure(line)
	if err != nil {
		return err
	}
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return err
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return err
		}
		for r := range requests {
			session(channel, r, run)
		}
	}
	return nil
}

func configure(line string) (*ssh.ServerConfig, error) {
	allowed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, fmt.Errorf("the key %q: %w", line, err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(who ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if who.User() != "root" || !bytes.Equal(key.Marshal(), allowed.Marshal()) {
			return nil, errors.New("not the key that was handed over")
		}
		return nil, nil
	}}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	host, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	config.AddHostKey(host)
	return config, nil
}

// session answers one request, RFC 4254, section 6.
func session(channel ssh.Channel, r *ssh.Request, run func(string) int) {
	if r.Type != "exec" || len(r.Payload) < 4 {
		_ = r.Reply(false, nil)
		return
	}
	_ = r.Reply(true, nil)
	status := run(string(r.Payload[4:]))
	if status < 0 {
		return
	}
	_, _ = channel.SendRequest("exit-status", false, []byte{0, 0, 0, byte(status)})
	_ = channel.Close()
}
