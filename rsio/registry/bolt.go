// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The buckets and keys in bbolt.
const (
	bucketMeta    = "meta"
	bucketVolumes = "volumes"
	keyState      = "state"
	boltBatch     = 1000 // records per transaction while a file is made
)

// decodeBolt returns the state in a bbolt file that was read into memory.
// clean is as for readBolt.
func decodeBolt(data []byte) (s *state, clean bool, err error) {
	var h *head
	records := map[string]Volume{}
	clean, err = readBolt(data, func(bucket string, k, value []byte) error {
		name := string(k)
		switch {
		case value == nil && (name == bucketMeta || name == bucketVolumes):
			return nil
		case bucket == bucketMeta && name == keyState:
			h = new(head)
			return decodeRecord(name, value, h)
		case bucket == bucketVolumes:
			var v Volume
			if err := decodeRecord(name, value, &v); err != nil {
				return err
			}
			records[name] = v
			return nil
		}
		return fmt.Errorf("%.80q in %.80q does not belong here", k, bucket)
	})
	if err != nil {
		return nil, false, err
	}
	if h == nil {
		return nil, false, errors.New("the record of the state is missing")
	}
	s, err = h.empty()
	if err != nil {
		return nil, false, err
	}
	for k, v := range records {
		if err := s.add(k, v); err != nil {
			return nil, false, err
		}
	}
	encoded, err := s.encode()
	if err != nil {
		return nil, false, err
	}
	if len(records) != h.Count || digest(encoded) != h.Digest {
		return nil, false, errors.New("records are missing or not of one state")
	}
	return s, clean, nil
}

// errPanic marks an error that was a panic.
type errPanic struct{ what any }

func (e errPanic) Error() string { return fmt.Sprintf("panic: %v", e.what) }

// guard turns a panic or a memory fault (bbolt maps its file) into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = errPanic{p}
		}
	}()
	return fn()
}

// boltDB is a bbolt file that is open.
type boltDB struct {
	*bolt.DB
	file   *os.File // the one that bbolt uses
	broken bool     // bbolt panicked: its locks are in an unknown state
}

// makeBolt puts a new bbolt file with the whole of s under path and opens it.
// bbolt thus never works on a file that this process has not made itself.
func (o options) makeBolt(path string, s *state, encoded []byte) (db *boltDB, err error) {
	tmp := path + tmpSuffix
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	db = new(boltDB)
	err = db.guard(func() (err error) {
		db.DB, err = bolt.Open(tmp, 0o600, &bolt.Options{
			PageSize: boltPage, NoFreelistSync: true, NoSync: o.noSync, NoGrowSync: o.noSync, Timeout: time.Second,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(name, flag, mode)
				db.file = f
				return f, err
			},
		})
		if err == nil {
			db.AllocSize = 1 << 16 // grow in small steps: the file is small
			err = fillBolt(db.DB, s, encoded)
		}
		return err
	})
	if err == nil {
		err = o.syncPath(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = o.syncDir(filepath.Dir(path))
	}
	if err != nil {
		_ = db.close()     // the error that counts is the first one
		_ = os.Remove(tmp) // gone already if the rename was done
		return nil, err
	}
	return db, nil
}

func fillBolt(db *bolt.DB, s *state, encoded []byte) error {
	list := s.list()
	for first := true; first || len(list) > 0; first = false {
		n := min(len(list), boltBatch)
		err := db.Update(func(tx *bolt.Tx) error {
			volumes, err := tx.CreateBucketIfNotExists([]byte(bucketVolumes))
			if err != nil {
				return err
			}
			for i := range list[:n] {
				if err := putRecord(volumes, key(list[i].Namespace, list[i].Name), &list[i]); err != nil {
					return err
				}
			}
			return putHead(tx, s, encoded)
		})
		if err != nil {
			return err
		}
		list = list[n:]
	}
	// Each transaction writes one of the two meta pages, and those of a new
	// file still name a freelist: one more makes both our own.
	return db.Update(func(tx *bolt.Tx) error { return putHead(tx, s, encoded) })
}

func putRecord(b *bolt.Bucket, k string, payload any) error {
	value, err := encodeRecord(k, payload)
	if err != nil {
		return err
	}
	return b.Put([]byte(k), value)
}

func putHead(tx *bolt.Tx, s *state, encoded []byte) error {
	b, err := tx.CreateBucketIfNotExists([]byte(bucketMeta))
	if err != nil {
		return err
	}
	h := s.head()
	h.Digest = digest(encoded)
	return putRecord(b, keyState, h)
}

// update stores the change of record k that leads to s; k is empty if only
// meta values change.
func (db *boltDB) update(s *state, k string, encoded []byte) error {
	if err := db.check(); err != nil {
		return err
	}
	return db.guard(func() error {
		return db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketVolumes))
			if b == nil {
				return errors.New("the bucket of the volumes is missing")
			}
			if k != "" {
				v, ok := s.volumes[k]
				if !ok {
					if err := b.Delete([]byte(k)); err != nil {
						return err
					}
				} else if err := putRecord(b, k, &v); err != nil {
					return err
				}
			}
			return putHead(tx, s, encoded)
		})
	})
}

// check makes sure that nobody has damaged the file since it was made: some of
// what bbolt does on a damaged one cannot be recovered from. It costs less
// than the syncs of a change.
func (db *boltDB) check() error {
	info, err := db.file.Stat()
	if err != nil {
		return err
	}
	data := make([]byte, min(info.Size(), maxFile))
	if _, err := db.file.ReadAt(data, 0); err != nil {
		return err
	}
	clean, err := readBolt(data, func(string, []byte, []byte) error { return nil })
	if err == nil && !clean {
		err = errors.New("one of its meta pages is wrong")
	}
	if err != nil {
		return fmt.Errorf("%s was damaged while in use: %w", boltName, err)
	}
	return nil
}

// guard runs a part of bbolt.
func (db *boltDB) guard(fn func() error) error {
	err := guard(fn)
	var p errPanic
	if errors.As(err, &p) {
		db.broken = true
	}
	return err
}

// close closes db. After a panic bbolt's own Close may wait for ever for a
// lock; only the descriptor is closed then, and the mapping stays.
func (db *boltDB) close() error {
	switch {
	case db == nil:
		return nil
	case !db.broken && db.DB != nil:
		return db.guard(db.Close)
	case db.file != nil:
		return db.file.Close()
	}
	return nil
}

func (o options) syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = o.sync(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
