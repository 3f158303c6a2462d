// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
)

var table = crc32.MakeTable(crc32.Castagnoli)

// stamp fills a block with what tells whose it is: checksum, block, sequence
// and load, and all of them mixed in every word, so that no sector of it is like
// one of another block or sequence.
func stamp(b []byte, blk, seq, load uint64) {
	mix := seq + blk*0x9e3779b97f4a7c15 + load
	for i := 0; i < len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], mix^uint64(i)<<40)
	}
	binary.BigEndian.PutUint64(b[8:], blk)
	binary.BigEndian.PutUint64(b[16:], seq)
	binary.BigEndian.PutUint64(b[24:], load)
	binary.BigEndian.PutUint64(b, 0)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], table))
}

// check compares what was read of a block with what it must hold: at least the
// sequence least, and nothing that was never written. What was there before
// this load may be there while least is 0, also if it is of another load: a
// device that was used before has blocks of other numbers and sequences.
func (s *blockState) check(b []byte, blk, least, load uint64) error {
	zero := true
	for _, x := range b {
		zero = zero && x == 0
	}
	if zero {
		if least == 0 {
			return nil
		}
		return fmt.Errorf("block %d is empty, it must hold %d", blk, least)
	}
	if binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:], table) {
		if least == 0 && s.tried == 0 {
			return nil // it is not ours
		}
		return fmt.Errorf("block %d is damaged", blk)
	}
	if got := binary.BigEndian.Uint64(b[24:]); got != load {
		if least == 0 {
			return nil
		}
		return fmt.Errorf("block %d holds what another load wrote, it must hold %d", blk, least)
	}
	if got := binary.BigEndian.Uint64(b[8:]); got != blk {
		return fmt.Errorf("block %d holds what was written to %d", blk, got)
	}
	if seq := binary.BigEndian.Uint64(b[16:]); s.tried != 0 && (seq < least || seq > s.tried) {
		return fmt.Errorf("block %d holds %d, it must hold %d to %d", blk, seq, least, s.tried)
	}
	return nil
}

// saved is the file of Options.State.
type saved struct {
	Load            uint64
	Offset, Size    int64
	Workers, Blocks int
	Tried           []uint64
	Acked           []uint64
	Flushed         []uint64
}

// load takes over what an earlier run knew.
func (l *Load) load() error {
	if l.opt.State == "" {
		return nil
	}
	b, err := os.ReadFile(l.opt.State)
	if errors.Is(err, os.ErrNotExist) && !l.opt.VerifyOnly {
		return nil
	}
	var s saved
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return err
	}
	n := len(l.state)
	if s.Offset != l.opt.Offset || s.Size != l.opt.Size || s.Workers != l.opt.Workers || s.Blocks != l.opt.Blocks || len(s.Tried) != n || len(s.Acked) != n || len(s.Flushed) != n {
		return errors.New("it was made with other options")
	}
	l.id = s.Load
	for i := range l.state {
		l.state[i] = blockState{acked: s.Acked[i], tried: s.Tried[i], flushed: s.Flushed[i]}
	}
	return nil
}

func (l *Load) save() error {
	if l.opt.State == "" || l.opt.VerifyOnly {
		return nil
	}
	s := saved{Load: l.id, Offset: l.opt.Offset, Size: l.opt.Size, Workers: l.opt.Workers, Blocks: l.opt.Blocks}
	for _, b := range l.state {
		s.Tried, s.Acked, s.Flushed = append(s.Tried, b.tried), append(s.Acked, b.acked), append(s.Flushed, b.flushed)
	}
	b, err := json.Marshal(&s)
	if err != nil {
		return err
	}
	return os.WriteFile(l.opt.State, b, 0o600)
}
