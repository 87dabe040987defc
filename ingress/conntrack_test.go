package ingress

import (
	"encoding/hex"
	"testing"
)

// TestParseFlow reads a flow as the kernel gave it: of a replica's namespace, in a zone for one direction, and over.
func TestParseFlow(t *testing.T) {
	const message = "02000000" +
		"3c000180" + "14000180080001000a4d0064080002000a64a902" + "1c00028005000100060000000600020080cd000006000300005000000600030059c00000" +
		"34000280" + "14000180080001000a64a902080002000a4d0064" + "1c0002800500010006000000060002000050000006000300" + "80cd0000" +
		"08000300" + "0000018e" +
		"30000480" + "2c000180" + "0500010007000000" + "050002000a000000" + "050003000a000000" + "0600040023000000" + "0600050027000000"
	data, err := hex.DecodeString(message)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseFlow(data)
	if err != nil {
		t.Fatal(err)
	}
	if f.client.String() != "10.77.0.100:32973" || f.server.String() != "10.100.169.2:80" || f.replica != f.server || f.back != f.client || !f.over {
		t.Errorf("%+v", f)
	}
}

// TestParseOver: who is still to be told that a connection has ended.
func TestParseOver(t *testing.T) {
	for _, test := range []struct {
		name                   string
		state, original, reply string // hexadecimal: enum tcp_conntrack, and what each side was seen to do
		over                   bool
	}{
		{"established", "03", "23", "23", false},
		{"closed by its client first", "04", "27", "23", false},
		{"and acknowledged", "05", "27", "23", false},
		{"closed by its replica first", "04", "23", "27", true},
		{"closed by both", "06", "27", "23", true},
		{"time wait", "07", "27", "23", true},
		{"reset", "08", "23", "23", true},
	} {
		data, err := hex.DecodeString("2c000180" + "05000100" + test.state + "000000" + "050002000a000000" + "050003000a000000" +
			"06000400" + test.original + "000000" + "06000500" + test.reply + "000000")
		if err != nil {
			t.Fatal(err)
		}
		if over, err := parseOver(data); over != test.over || err != nil {
			t.Errorf("%s: %t, %v", test.name, over, err)
		}
	}
}
