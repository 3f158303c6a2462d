// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"rsio/rsio/audit"
)

// Notify tells systemd that the daemon serves, and until ctx ends that it is
// well: twice in each interval of the watchdog it calls look, which takes the
// locks that requests of the control API take. If it does not return, the
// watchdog ends the daemon. Started otherwise than by a unit of Type=notify it
// does nothing. It returns nil, for Group.Go.
func Notify(ctx context.Context, events *audit.Log, look func()) error {
	ok, err := sd.SdNotify(false, sd.SdNotifyReady)
	if err != nil {
		events.Add(audit.Warning, "systemd", "could not be told that we serve: "+err.Error())
	}
	if !ok {
		return nil
	}
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		events.Add(audit.Warning, "systemd", "the watchdog's interval: "+err.Error())
	}
	var tick <-chan time.Time
	if every > 0 {
		t := time.NewTicker(every / 2)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			_, _ = sd.SdNotify(false, sd.SdNotifyStopping) // it ends anyway
			return nil
		case <-tick:
			look()
			_, _ = sd.SdNotify(false, sd.SdNotifyWatchdog) // the watchdog notices
		}
	}
}
