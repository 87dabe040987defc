package agent

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/daemon"
)

// TellReady tells systemd that this process serves (sd_notify(3)). Without systemd it does nothing.
func TellReady() error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("telling systemd that this process is ready: %w", err)
	}
	return nil
}

// notifySystemd tells systemd that the agent is up, so that units ordered
// after it, such as docker.service, start when networks are there; and that it ends.
func (a *Agent) notifySystemd(ctx context.Context) error {
	if err := TellReady(); err != nil {
		return err
	}
	<-ctx.Done()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) // it sees us end anyway
	return nil
}
