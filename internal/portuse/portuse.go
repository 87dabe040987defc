// Package portuse finds out who has a port, to say more than "address already in use".
package portuse

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Holder is a socket that is in the way, and the process that has it.
type Holder struct {
	Local netip.AddrPort // what it is bound to
	PID   int            // 0: not known
	Name  string         // of the process, as in /proc/PID/comm; empty: not known
	// Kernel says that no process can have it: the socket belongs to a
	// device, such as a WireGuard or a VXLAN one.
	Kernel bool
}

// String says who it is in words that fit behind "it is in use by".
func (h Holder) String() string {
	switch {
	case h.PID != 0 && h.Name != "":
		return fmt.Sprintf("process %d (%s)", h.PID, h.Name)
	case h.PID != 0:
		return fmt.Sprintf("process %d", h.PID)
	case h.Kernel:
		return "the kernel itself (a WireGuard or VXLAN device)"
	default:
		return "a process that this one cannot see"
	}
}

// Find returns who is in the way of binding local, in the network namespace of the
// calling thread; network is "tcp" or "udp". An unspecified address means all
// addresses. It returns false when nobody is, or the kernel does not tell.
func Find(network string, local netip.AddrPort) (Holder, bool) {
	for _, table := range []string{network, network + "6"} {
		file, err := os.Open("/proc/thread-self/net/" + table)
		if err != nil {
			continue // no IPv6, or no /proc: then we know no more
		}
		holder, inode, found := search(bufio.NewScanner(file), network, local)
		_ = file.Close() // opened for reading only
		if !found {
			continue
		}
		if inode == 0 {
			holder.Kernel = true
		} else {
			holder.PID, holder.Name = owner(inode)
		}
		return holder, true
	}
	return Holder{}, false
}

// Explain adds to a failed bind who has the port and what to do. Errors that are
// not "address already in use" come back as they are. key is the
// configuration key that moves the port, such as "join.listen".
func Explain(err error, network string, local netip.AddrPort, key string) error {
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	by := "somebody else"
	if holder, found := Find(network, local); found {
		by = holder.String()
	}
	return fmt.Errorf("%s port %d is in use by %s: end it, or choose another port with %s: %w",
		strings.ToUpper(network), local.Port(), by, key, syscall.EADDRINUSE)
}

// States of a socket that holds a port, from include/net/tcp_states.h.
const (
	tcpListen = "0A"
	udpBound  = "07"
)

// search reads a table as in proc(5) for the first socket in the way of local.
func search(lines *bufio.Scanner, network string, local netip.AddrPort) (Holder, uint64, bool) {
	state := tcpListen
	if network == "udp" {
		state = udpBound
	}
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != state {
			continue
		}
		bound, err := parseLocal(fields[1])
		if err != nil || !inTheWay(bound, local) {
			continue
		}
		inode, err := strconv.ParseUint(fields[9], 10, 64)
		if err != nil {
			continue
		}
		return Holder{Local: bound}, inode, true
	}
	return Holder{}, 0, false
}

// inTheWay says whether a socket on one address keeps another from the other one.
func inTheWay(bound, want netip.AddrPort) bool {
	if bound.Port() != want.Port() {
		return false
	}
	a, b := bound.Addr().Unmap(), want.Addr().Unmap()
	switch {
	case !b.IsValid() || a == b:
		return true
	case a == netip.IPv6Unspecified() || b == netip.IPv6Unspecified():
		return true // it takes IPv4 as well
	case a == netip.IPv4Unspecified():
		return b.Is4()
	case b == netip.IPv4Unspecified():
		return a.Is4()
	default:
		return false
	}
}

// parseLocal reads "0100007F:1F0A": the address in groups of four bytes, each in
// the byte order of the machine, and the port as a plain number.
func parseLocal(text string) (netip.AddrPort, error) {
	hexAddr, hexPort, ok := strings.Cut(text, ":")
	if !ok || (len(hexAddr) != 8 && len(hexAddr) != 32) {
		return netip.AddrPort{}, fmt.Errorf("not an address: %q", text)
	}
	port, err := strconv.ParseUint(hexPort, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port of %q: %w", text, err)
	}
	raw := make([]byte, 0, 16)
	for i := 0; i < len(hexAddr); i += 8 {
		group, err := strconv.ParseUint(hexAddr[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("address of %q: %w", text, err)
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(group))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// owner finds the process that has the socket with this inode. Processes of other
// users are visible to root only.
func owner(inode uint64) (pid int, name string) {
	want := fmt.Sprintf("socket:[%d]", inode)
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0, ""
	}
	for _, process := range processes {
		pid, err := strconv.Atoi(process.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", process.Name(), "fd")
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // it ended, or it is not ours to look at
		}
		for _, file := range files {
			target, err := os.Readlink(filepath.Join(dir, file.Name()))
			if err != nil || target != want {
				continue
			}
			comm, _ := os.ReadFile(filepath.Join("/proc", process.Name(), "comm"))
			return pid, strings.TrimSpace(string(comm))
		}
	}
	return 0, ""
}
