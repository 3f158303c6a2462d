// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The second copy is one file that is replaced as a whole: magic (8 bytes),
// length of the payload (8, big-endian), SHA-256 of the payload (32), payload
// (the image as JSON, so that a human can read it in need).
const (
	copyMagic  = "RSIONAM1"
	copyHeader = 8 + 8 + sha256.Size
	maxFile    = 1 << 30 // bytes; neither copy is read beyond this
)

func encodeCopy(encoded []byte) []byte {
	b := append(make([]byte, 0, copyHeader+len(encoded)), copyMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(encoded)))
	sum := sha256.Sum256(encoded)
	b = append(b, sum[:]...)
	return append(b, encoded...)
}

func decodeCopy(b []byte) (*state, error) {
	if len(b) < copyHeader {
		return nil, fmt.Errorf("%d bytes are too few", len(b))
	}
	if string(b[:8]) != copyMagic {
		return nil, errors.New("it does not start as it should")
	}
	payload := b[copyHeader:]
	if binary.BigEndian.Uint64(b[8:]) != uint64(len(payload)) {
		return nil, fmt.Errorf("%d bytes where %d belong", len(payload), binary.BigEndian.Uint64(b[8:]))
	}
	if sum := sha256.Sum256(payload); !bytes.Equal(sum[:], b[16:copyHeader]) {
		return nil, errors.New("checksum is wrong")
	}
	return decodeState(payload)
}

// replaceFile puts data under path: the old content or the new one is there at
// any moment, and the new one is durable when it returns.
func (o options) replaceFile(path string, data []byte) error {
	tmp := path + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = o.sync(f)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp) // the error that counts is the first one
		return err
	}
	return o.syncDir(filepath.Dir(path))
}

func (o options) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = o.sync(d)
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

// sync makes f durable.
func (o options) sync(f *os.File) error {
	if o.fault != nil {
		if err := o.fault(f.Name()); err != nil {
			return err
		}
	}
	if o.noSync {
		return nil
	}
	return f.Sync()
}
