// Package serial is what a virtual machine and its host say to each other over a serial port: a
// line of JSON for each request and each answer. Commands run at the same time; each is told by its ID.
package serial

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// Request starts a command, or signals one that runs.
type Request struct {
	ID     int      `json:"id"`
	Args   []string `json:"args,omitempty"`   // starts it
	Signal int      `json:"signal,omitempty"` // signals it
}

// Answer says that a command has ended. The machine's first, with ID 0, says that it is up.
type Answer struct {
	ID     int    `json:"id"`
	Code   int    `json:"code"` // its exit code; 128 and the signal that ended it; -1: it did not start
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
}

// Port is one end of the line.
type Port struct {
	in *bufio.Reader

	mu  sync.Mutex // guards out: a line is written in one piece
	out io.Writer
}

// NewPort returns an end that reads and writes rw.
func NewPort(rw io.ReadWriter) *Port { return &Port{in: bufio.NewReader(rw), out: rw} }

// Send writes a message.
func (p *Port) Send(message any) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.out.Write(append(line, '\n'))
	return err
}

// Receive reads the next message.
func (p *Port) Receive(message any) error {
	line, err := p.in.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, message); err != nil {
		return fmt.Errorf("%w in %.200q", err, line)
	}
	return nil
}
