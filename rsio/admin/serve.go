// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketMode = 0o660
	maxSocket  = 107             // bytes of a path that fit into a socket address
	graceTime  = 5 * time.Second // for calls in progress when the daemon stops
)

// Serve listens on the unix socket path (mode 0660) and serves h until ctx
// ends. A socket that a dead daemon has left is replaced; if a daemon still
// answers there, Serve refuses. Calls in progress have their context ended
// with ctx and some time to finish; those that do not are named in the error.
func Serve(ctx context.Context, path string, h http.Handler) error {
	l, release, err := listen(path)
	if err != nil {
		return fmt.Errorf("control socket %s: %w", path, err)
	}
	defer release()
	var calls sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			defer calls.Done()
			h.ServeHTTP(w, r)
		}),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err = <-ended:
		_ = srv.Close() // what counts is why it ended
	case <-ctx.Done():
		err = shutdown(srv, ended)
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceTime)
	defer cancel()
	if waitCalls(wait, &calls) != nil && err == nil {
		err = errors.New("calls are still running: their devices do not answer")
	}
	if err != nil {
		return fmt.Errorf("control socket %s: %w", path, err)
	}
	return nil
}

// shutdown ends srv and its goroutine.
func shutdown(srv *http.Server, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(context.Background(), graceTime)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		_ = srv.Close() // cuts connections; the calls are waited for by Serve
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func waitCalls(ctx context.Context, calls *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { calls.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listen makes the socket. Who holds the lock beside it may replace it, so
// that two daemons that start at once do not take it from each other.
func listen(path string) (l net.Listener, release func(), err error) {
	tmp := path + ".new"
	if len(tmp) > maxSocket {
		return nil, nil, fmt.Errorf("the path is longer than %d bytes: choose a shorter one", maxSocket-len(".new"))
	}
	lock, err := lockSocket(path + ".lock")
	if err != nil {
		return nil, nil, err
	}
	if err := clearStale(path); err != nil {
		_ = lock.Close() // nothing was written
		return nil, nil, err
	}
	_ = os.Remove(tmp) // of a daemon that was killed here
	l, err = net.Listen("unix", tmp)
	if err != nil {
		_ = lock.Close() // nothing was written
		return nil, nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it does not stay where it is
	if err = os.Chmod(tmp, socketMode); err == nil {
		err = os.Rename(tmp, path) // never to be seen with another mode
	}
	if err != nil {
		_ = l.Close()      // the error that counts is the first one
		_ = os.Remove(tmp) // likewise
		_ = lock.Close()   // likewise
		return nil, nil, err
	}
	return l, func() {
		_ = l.Close()       // closed already if the server was shut down
		_ = os.Remove(path) // a stale one does no harm
		_ = lock.Close()    // gives the lock up
	}, nil
}

func lockSocket(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errTaken()
		}
		return nil, err
	}
	return f, nil
}

func errTaken() error {
	return errors.New("another daemon serves it: stop that one, or choose another with --admin unix:PATH")
}

// clearStale removes a socket that nobody serves.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("there is something that is not a socket: remove it, or choose another path")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close() // nothing was said
		return errTaken()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another daemon serves it: %w", err)
	}
	return os.Remove(path)
}
