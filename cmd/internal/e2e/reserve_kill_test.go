// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rsio/dam"
	"rsio/rsio/admin"
	"rsio/rsio/admin/api"
	"rsio/rsio/block"
)

// reserveDriver acts for four nexuses on one volume, one action at a time, and
// knows what the table must be.
type reserveDriver struct {
	sock, vol string
	rng       *rand.Rand
	state     *dam.State // after all that was answered
	flying    *api.ReserveSpec
	acts      int
}

var reserveNexuses = []string{"h1", "h2", "h2/a", "h3/b"}

// random makes an action that mostly has a chance.
func (d *reserveDriver) random() api.ReserveSpec {
	s := api.ReserveSpec{As: reserveNexuses[d.rng.IntN(4)], To: "h2",
		Action:  block.ReserveAction(d.rng.IntN(8)).String(),
		Type:    block.ReserveTypes()[d.rng.IntN(6)].String(),
		NewKey:  uint64(1 + d.rng.IntN(3)),
		Request: fmt.Sprintf("%016x%016x", d.rng.Uint64(), d.rng.Uint64())}
	key, registered := d.state.Registered(s.As)
	if s.Key = key; !registered && d.rng.IntN(4) > 0 {
		s.Action = "register"
	}
	if s.Action == "release" && d.state.Type != block.ReserveNone {
		s.Type = d.state.Type.String()
	}
	return s
}

// expect returns what a spec makes of the state.
func (d *reserveDriver) expect(s api.ReserveSpec) (*dam.State, block.ReserveResult, error) {
	r, err := api.ParseReserve(s)
	if err != nil {
		return nil, block.ReserveResult{}, err
	}
	n, out := dam.Apply(d.state, s.As, r)
	if n != d.state {
		n.Pending = nil // not looked at here
	}
	return n, out.ReserveResult, nil
}

// same compares an answer with what is expected. unsure: there was none.
func (d *reserveDriver) same(want block.ReserveResult, got api.ReserveResult, err error) (unsure bool, _ error) {
	var e *api.Error
	switch {
	case err == nil && want.Status == block.StatusOK && got.Generation == want.Generation:
		return false, nil
	case err == nil:
		return false, fmt.Errorf("P5: %s: answered with generation %d, want %v, generation %d", d.vol, got.Generation, want.Status, want.Generation)
	case errors.As(err, &e) && want.Status == block.StatusConflict && e.Kind == api.Conflict,
		errors.As(err, &e) && want.Status == block.StatusInvalid && e.Kind == api.Usage:
		return false, nil
	}
	return true, err
}

// drive acts until an action is not answered, which only a kill explains.
func (d *reserveDriver) drive(ctx context.Context, killed *atomic.Bool) error {
	c := admin.NewClient(d.sock)
	for {
		s := d.random()
		next, want, err := d.expect(s)
		if err != nil {
			return err
		}
		got, err := c.Reserve(ctx, "", api.DefaultNamespace, d.vol, s)
		unsure, err := d.same(want, got, err)
		switch {
		case unsure && killed.Load():
			d.flying = &s
			return nil
		case err != nil:
			return fmt.Errorf("%s: %+v: %w", d.vol, s, err)
		}
		d.acts++
		d.state = next
	}
}

// visible is the table that the target shows, and that of a state.
func (d *reserveDriver) visible(ctx context.Context) (string, uint32, error) {
	x, err := admin.NewClient(d.sock).Reservation(ctx, "", api.DefaultNamespace, d.vol, "")
	return fmt.Sprint(x.Generation, x.Type, x.Key, x.Registrants), x.Generation, err
}

func reserveTable(s *dam.State) string {
	x := api.DescribeReservation("", "", s.Show(""))
	return fmt.Sprint(x.Generation, x.Type, x.Key, x.Registrants)
}

// check compares the table after a restart, and sends again what was in flight,
// twice. It reports whether the action had been made.
func (d *reserveDriver) check(ctx context.Context) (made, changes bool, err error) {
	s := *d.flying
	next, want, err := d.expect(s)
	if err != nil {
		return false, false, err
	}
	got, generation, err := d.visible(ctx)
	if err != nil {
		return false, false, err
	}
	before, after := reserveTable(d.state), reserveTable(next)
	if got != before && got != after || generation < d.state.Generation {
		return false, false, fmt.Errorf("P5: %s: after kill -9 the table is %s; it was %s, and %s of %s makes it %s", d.vol, got, before, s.Action, s.As, after)
	}
	for range 2 {
		res, err := admin.NewClient(d.sock).Reserve(ctx, "", api.DefaultNamespace, d.vol, s)
		if _, err := d.same(want, res, err); err != nil {
			return false, false, fmt.Errorf("P5: %s: sent again: %+v: %w", d.vol, s, err)
		}
		if got, _, err := d.visible(ctx); err != nil || got != after {
			return false, false, fmt.Errorf("P5: %s: %s of %s sent again makes it %s, want %s (error: %v)", d.vol, s.Action, s.As, got, after, err)
		}
	}
	made, changes = got == after, before != after
	d.state, d.flying = next, nil
	return made, changes, nil
}

// TestP5_KillTarget kills the target again and again while reservations change:
// the table is that before or after the action in flight, PRgeneration does not
// go back, and what is sent again with its request ID has one effect.
func TestP5_KillTarget(t *testing.T) {
	l := NewLab(t, binDir)
	p := l.NewPair(PairOptions{Portals: []string{"unix:" + l.Path("p1")}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var drivers []*reserveDriver
	for n, vol := range []string{"v", "w"} {
		p.Ctl(p.Sock, "volume", "create", vol, "--size", "1M")
		drivers = append(drivers, &reserveDriver{sock: p.TargetSock, vol: vol, rng: rand.New(rand.NewPCG(uint64(n), 5)), state: dam.New(vol)})
	}
	var restarts []time.Duration
	made, lost := 0, 0
	for round := range rounds(15) {
		var killed atomic.Bool
		var wg sync.WaitGroup
		for _, d := range drivers {
			wg.Go(func() {
				if err := d.drive(ctx, &killed); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
		killed.Store(true)
		p.Target.Kill()
		wg.Wait()
		start := time.Now()
		p.Target.Start()
		l.Eventually(fmt.Sprintf("the table is shown after restart %d", round), func() bool {
			_, _, err := drivers[0].visible(ctx)
			return err == nil
		})
		restarts = append(restarts, time.Since(start))
		if t.Failed() {
			return
		}
		for _, d := range drivers {
			m, changes, err := d.check(ctx)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if changes && m {
				made++
			} else if changes {
				lost++
			}
		}
	}
	t.Logf("%d actions answered; of the changes in flight at a kill, %d had been made, %d not", drivers[0].acts+drivers[1].acts, made, lost)
	if drivers[0].acts == 0 || drivers[1].acts == 0 || made+lost == 0 {
		t.Error("nothing was tested")
	}
	report(t, "from the start of the target until it shows a reservation, polled each 10 ms", restarts)
}
