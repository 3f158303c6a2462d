// SPDX-License-Identifier: Apache-2.0

package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"rsio/nbd/client"
	"rsio/rsio/fusefs"
)

// Options say what a Server serves where.
type Options struct {
	Mount string // directory of the mount, absolute
	NBD   string // socket of the initiator's NBD server
	Log   *slog.Logger
}

// Server serves files of a mount and takes orders.
type Server struct {
	opt  Options
	fs   *fusefs.FS
	quit chan struct{}
	once sync.Once

	mu    sync.Mutex
	files map[string]*entry
}

// entry is a file that is served.
type entry struct {
	File
	dev *client.Device

	mu     sync.Mutex
	up     bool
	reason string
}

// New returns a Server that is not mounted.
func New(opt Options) *Server {
	fs := fusefs.New(fusefs.Options{Log: opt.Log, Private: os.Getuid() != 0 && !othersAllowed()})
	return &Server{opt: opt, fs: fs, quit: make(chan struct{}), files: make(map[string]*entry)}
}

// othersAllowed reports whether this system lets users mount for others.
func othersAllowed() bool {
	b, err := os.ReadFile("/etc/fuse.conf")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}

// endTimeout is how long an orderly end may take; what is open then gets
// errors.
const endTimeout = 10 * time.Second

// Run mounts, takes orders from l until ctx ends, somebody says quit, or the
// mount ends, and then unmounts. ready is called when files can be made.
func (s *Server) Run(ctx context.Context, l net.Listener, ready func()) error {
	err := takeOff(s.opt.Mount)
	if err == nil {
		err = os.MkdirAll(s.opt.Mount, 0o755)
	}
	if err == nil {
		err = s.fs.Mount(s.opt.Mount)
	}
	if err != nil {
		return err
	}
	gone := s.fs.Done()
	if gone == nil { // at once
		return s.takenOff()
	}
	web := &http.Server{Handler: s.routes(), ReadHeaderTimeout: endTimeout}
	var wg sync.WaitGroup
	wg.Go(func() { _ = web.Serve(l) }) // ErrServerClosed
	ready()
	select {
	case <-ctx.Done():
	case <-s.quit:
	case <-gone:
		err = s.takenOff()
	}
	end, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	_ = web.Shutdown(end) // its connections end with us
	wg.Wait()
	return errors.Join(err, s.end(end))
}

func (s *Server) takenOff() error {
	return fmt.Errorf("the mount %s has been taken off by somebody", s.opt.Mount)
}

// end takes all files off, by force: whoever ends this process wants that.
func (s *Server) end(ctx context.Context) error {
	s.mu.Lock()
	all := s.files
	s.files = make(map[string]*entry)
	s.mu.Unlock()
	var err error
	for _, e := range all {
		ns, name, _ := strings.Cut(e.Path, "/")
		if e2 := s.fs.Remove(ctx, ns, name, false); e2 != nil {
			e.dev.Abandon()
			err = errors.Join(err, e2, s.fs.Remove(ctx, ns, name, true))
		}
		_ = e.dev.Close(ctx) // what waits was abandoned
	}
	if e2 := s.fs.Unmount(ctx, true); e2 != nil && !errors.Is(e2, fusefs.ErrNotMounted) {
		err = errors.Join(err, e2)
	}
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			out, err := fn(r)
			switch {
			case errors.Is(err, fusefs.ErrInUse):
				http.Error(w, err.Error(), http.StatusConflict)
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
			default:
				_ = json.NewEncoder(w).Encode(out) // the caller has gone
			}
		})
	}
	handle("GET /v1/files", func(*http.Request) (any, error) { return s.list(), nil })
	handle("PUT /v1/files", func(r *http.Request) (any, error) {
		var f File
		if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
			return nil, err
		}
		return nil, s.put(r.Context(), f)
	})
	handle("DELETE /v1/files", func(r *http.Request) (any, error) {
		return nil, s.remove(r.Context(), r.URL.Query().Get("path"), r.URL.Query().Get("force") == "true")
	})
	handle("POST /v1/refresh", func(r *http.Request) (any, error) {
		return nil, s.refresh(r.Context(), r.URL.Query().Get("path"))
	})
	handle("POST /v1/fence", func(r *http.Request) (any, error) {
		right, err := strconv.ParseUint(r.URL.Query().Get("right"), 10, 64)
		if err != nil {
			return nil, err
		}
		return nil, s.fence(r.URL.Query().Get("path"), right)
	})
	handle("POST /v1/quit", func(*http.Request) (any, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.files) > 0 {
			return nil, fmt.Errorf("%d files are served", len(s.files))
		}
		s.once.Do(func() { close(s.quit) })
		return nil, nil
	})
	return mux
}

func (s *Server) list() []State {
	s.mu.Lock()
	all := make([]*entry, 0, len(s.files))
	for _, e := range s.files {
		all = append(all, e)
	}
	s.mu.Unlock()
	out := make([]State, 0, len(all))
	for _, e := range all {
		ns, name, _ := strings.Cut(e.Path, "/")
		st := State{File: e.File, Size: e.dev.Info().Size}
		e.mu.Lock()
		st.Up, st.Reason = e.up, e.reason
		e.mu.Unlock()
		for _, o := range s.fs.Openers(ns, name) {
			for range o.Handles {
				st.Openers = append(st.Openers, int(o.PID))
			}
		}
		out = append(out, st)
	}
	return out
}

// put adds a file, or makes it anew if it is another one now and nobody has it
// open.
func (s *Server) put(ctx context.Context, f File) error {
	s.mu.Lock()
	old := s.files[f.Path]
	s.mu.Unlock()
	if old != nil {
		same := f
		same.Right = old.Right
		if old.File == same {
			return nil
		}
		if err := s.remove(ctx, f.Path, false); err != nil {
			return fmt.Errorf("owner or mode of an open file cannot be changed: %w", err)
		}
	}
	e := &entry{File: f, reason: "connecting"}
	dev, err := client.Open(ctx, client.Options{Socket: s.opt.NBD, Export: f.Export, State: e.state})
	if err != nil {
		return err
	}
	e.dev = dev
	dev.SetRight(f.Right)
	ns, name, _ := strings.Cut(f.Path, "/")
	err = s.fs.Add(fusefs.File{Namespace: ns, Name: name, Device: dev, Nexus: f.Nexus, ReadOnly: f.ReadOnly, UID: f.UID, GID: f.GID, Mode: f.Mode, Attr: e.attr})
	if err != nil {
		return errors.Join(err, dev.Close(ctx))
	}
	s.mu.Lock()
	s.files[f.Path] = e
	s.mu.Unlock()
	return nil
}

// state takes the word of the client about its connection.
func (e *entry) state(up bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.up, e.reason = up, ""
	if err != nil {
		e.reason = err.Error()
	}
}

// attr is what the file's extended attributes tell.
func (e *entry) attr() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	state := "ok"
	if !e.up {
		state = "waiting: " + e.reason
	}
	return map[string]string{"user.rsio.volume": e.Volume, "user.rsio.nexus": e.Nexus, "user.rsio.target": e.Target, "user.rsio.state": state}
}

func (s *Server) remove(ctx context.Context, path string, force bool) error {
	s.mu.Lock()
	e := s.files[path]
	s.mu.Unlock()
	if e == nil {
		return nil
	}
	ns, name, _ := strings.Cut(path, "/")
	if force {
		e.dev.Abandon() // or Remove would wait for what waits for the initiator
	}
	if err := s.fs.Remove(ctx, ns, name, force); err != nil && !errors.Is(err, fusefs.ErrNotFound) {
		return err
	}
	s.mu.Lock()
	delete(s.files, path)
	s.mu.Unlock()
	return e.dev.Close(ctx)
}

// fence refuses what was sent to a file under another right.
func (s *Server) fence(path string, right uint64) error {
	s.mu.Lock()
	e := s.files[path]
	s.mu.Unlock()
	if e == nil {
		return fmt.Errorf("there is no file %s", path)
	}
	e.dev.SetRight(right)
	ns, name, _ := strings.Cut(path, "/")
	return s.fs.Fence(ns, name)
}

func (s *Server) refresh(ctx context.Context, path string) error {
	s.mu.Lock()
	e := s.files[path]
	s.mu.Unlock()
	if e == nil {
		return fmt.Errorf("there is no file %s", path)
	}
	if err := e.dev.Refresh(ctx); err != nil {
		return err
	}
	ns, name, _ := strings.Cut(path, "/")
	s.fs.Resized(ns, name)
	return nil
}
