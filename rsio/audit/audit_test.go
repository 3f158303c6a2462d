// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSince(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	l := New(nil)
	for i := range 10 {
		l.Add(Info, "o", fmt.Sprint(i))
	}
	for _, row := range []struct {
		desc  string
		after uint64
		want  int
		first uint64
	}{
		{"all", 0, 10, 1}, {"the rest", 7, 3, 8}, {"none", 10, 0, 0}, {"of a former life", 99, 10, 1},
	} {
		got := l.Since(ended, row.after)
		if len(got) != row.want || row.want > 0 && got[0].ID != row.first {
			t.Errorf("%s: %d events: %v", row.desc, len(got), got)
		}
		for i := range got {
			if got[i].ID != row.first+uint64(i) {
				t.Errorf("%s: event %d has ID %d", row.desc, i, got[i].ID)
			}
		}
	}
}

func TestBound(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	l := new(Log)
	l.Add(Error, "disk", "first error")
	l.Add(Warning, "path", "first warning")
	for range 5 * Max {
		l.Add(Info, "o", "news")
	}
	got := l.Since(ended, 0)
	if len(got) != Max || got[0].Text != "first error" || got[1].Text != "first warning" || got[Max-1].ID != 5*Max+2 {
		t.Fatalf("%d events, %v, %v ... %v", len(got), got[0], got[1], got[Max-1])
	}
	for range 2 * Max {
		l.Add("odd", "o", "trouble")
	}
	l.Add(Info, "o", "newest")
	got = l.Since(ended, 0)
	if len(got) != Max || got[Max-2].Level != Error || got[Max-1].Text != "newest" {
		t.Fatalf("%d events, last %v", len(got), got[Max-1])
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if got := l.Since(ctx, 0); len(got) != 1 || got[0].Text != "hello" {
					t.Errorf("got %v", got)
				}
				if got := l.Since(ctx, 1); got != nil {
					t.Errorf("got %v", got)
				}
			})
		}
		time.Sleep(time.Second)
		l.Add(Info, "o", "hello")
		wg.Wait()
		if ctx.Err() == nil {
			t.Error("did not wait")
		}
	})
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&b, nil)))
	l.Add(Warning, "path t1/2", "silent")
	if got := b.String(); !strings.Contains(got, "level=WARN msg=silent object=\"path t1/2\"") {
		t.Fatal(got)
	}
}
