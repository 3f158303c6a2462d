// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkAppend: one save of 700 bytes, about what a volume with four
// registrants has, durable in the directory for temporary files. cpu is the
// same without a disk.
func BenchmarkAppend(b *testing.B) {
	for _, row := range []struct {
		desc string
		dir  func() string
		fsys files
	}{
		{"disk", b.TempDir, osFiles{}},
		{"cpu", func() string { return "/" }, nullFiles{}},
	} {
		b.Run(row.desc, func(b *testing.B) {
			j, _, err := open(filepath.Join(row.dir(), "j"), row.fsys)
			if err != nil {
				b.Fatal(err)
			}
			if err := j.Rewrite(nil); err != nil {
				b.Fatal(err)
			}
			r := put("6f9619ff-8b86-d011-b42d-00cf4fc964ff", 0, 700).Record
			b.ReportAllocs()
			for b.Loop() {
				r.Version++
				if err := j.Append(r); err != nil {
					b.Fatal(err)
				}
				if j.Size() > MaxFile/2 {
					if err := j.Rewrite(nil); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(r.size()), "bytes/record")
		})
	}
}

// BenchmarkOpen: a file of many records in memory.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			data := journalFor(fileID{9}, dozens(1, n))
			m := memWith(memPath, data)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, _, err := open(memPath, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// nullFiles take everything and keep nothing.
type nullFiles struct{ osFiles }

func (nullFiles) create(string) (file, error) { return &nullFile{}, nil }
func (nullFiles) remove(string) error         { return nil }
func (nullFiles) rename(string, string) error { return nil }
func (nullFiles) syncDir(string) error        { return nil }

type nullFile struct {
	memFile
	size int64
}

func (f *nullFile) WriteAt(b []byte, off int64) (int, error) {
	f.size = off + int64(len(b))
	return len(b), nil
}
func (f *nullFile) Sync() error                  { return nil }
func (f *nullFile) datasync() error              { return nil }
func (f *nullFile) Close() error                 { return nil }
func (f *nullFile) stat() (int64, uint64, error) { return f.size, 1, nil }
