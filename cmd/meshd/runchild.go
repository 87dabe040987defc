package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// runChildCommand is the child of `meshd run`: it waits for an order, arranges its namespaces, and
// becomes the command.
func runChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:    childName,
		Hidden: true,
		Args:   wants(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			orders, reports := os.NewFile(3, "orders"), os.NewFile(4, "reports")
			if !isPipe(orders) || !isPipe(reports) {
				return misused("this command is for meshd run alone")
			}
			unix.CloseOnExec(3)
			unix.CloseOnExec(4)
			var o order
			if err := json.NewDecoder(orders).Decode(&o); errors.Is(err, io.EOF) {
				return exitCode(exitFailed) // the parent gave up, and says why
			} else if err != nil {
				return err
			}
			t := become(o) // returns only if it fails
			_ = json.NewEncoder(reports).Encode(t)
			return exitCode(exitFailed)
		},
	}
}

func isPipe(file *os.File) bool {
	if file == nil {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// become turns this process into the command.
func become(o order) trouble {
	for _, step := range []func() error{
		loopbackUp,
		separateMounts,
		func() error { return forgetNamespaces(o.Runtime) },
		hideHostResolvers,
		func() error { return bindResolvConf(o.Nameserver, o.Search) },
		// execve(2) keeps the parent-death signal of the thread that calls it, which need not be
		// the one that was cloned with it.
		func() error { return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0) },
	} {
		if err := step(); err != nil {
			return trouble{Message: "preparing " + o.Args[0] + ": " + err.Error()}
		}
	}
	env := append(os.Environ(), "MESHD_ENDPOINT="+o.Endpoint)
	err := syscall.Exec(o.Program, o.Args, env)
	t := trouble{Message: fmt.Sprintf("running %s: %v", o.Program, err)}
	errors.As(err, &t.Exec)
	return t
}

// loopbackUp sets lo up, in case the daemon did not.
func loopbackUp() error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	defer func() { _ = unix.Close(sock) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	if err := unix.IoctlIfreq(sock, unix.SIOCGIFFLAGS, lo); err != nil {
		return fmt.Errorf("reading the state of loopback: %w", err)
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	return nil
}

// resolvText is the contents of resolv.conf (resolv.conf(5)).
func resolvText(nameserver string, search []string) string {
	var text strings.Builder
	text.WriteString("# made by meshd run\n")
	if nameserver != "" {
		text.WriteString("nameserver " + nameserver + "\n")
	}
	if len(search) > 0 {
		text.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	return text.String()
}
