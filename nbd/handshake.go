// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"rsio/rsio/block"
)

// How a handshake ends without an export.
var (
	errAborted     = errors.New("client ended the handshake")
	errClientFlags = errors.New("client flags that were not offered")
	errOptionMagic = errors.New("option with a wrong magic number")
	errOptionSize  = errors.New("option with more than 64 KiB of data")
	errNoExport    = errors.New("export is not available")
	errNameOption  = errors.New("EXPORT_NAME after extended headers")
)

// haggle is the state of a handshake. It is garbage when the export is chosen.
type haggle struct {
	c        *conn
	w        *bufio.Writer
	data     []byte // of the option at hand
	scratch  [optReplyLen]byte
	noZeroes bool

	structured, extended bool
	meta                 bool   // base:allocation is selected
	metaName             string // for the export a client called so
}

// handshake haggles until an export is chosen, which then is c.export.
// Everything sent before is read exactly, so that what follows is left in the
// socket for the transmission phase.
func (c *conn) handshake() error {
	h := &haggle{c: c, w: bufio.NewWriterSize(c.sock, 1<<10)}
	var hello [18]byte
	binary.BigEndian.PutUint64(hello[:], protocol.NEGOTIATION_MAGIC_OLDSTYLE)
	binary.BigEndian.PutUint64(hello[8:], protocol.NEGOTIATION_MAGIC_OPTION)
	binary.BigEndian.PutUint16(hello[16:], protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE|flagNoZeroes)
	if _, err := c.sock.Write(hello[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.sock, hello[:4]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(hello[:])
	if flags&^(clientFixed|clientNoZeroes) != 0 {
		return errClientFlags
	}
	h.noZeroes = flags&clientNoZeroes != 0
	for {
		chosen, err := h.option()
		if ferr := h.w.Flush(); err == nil {
			err = ferr
		}
		if err != nil || chosen {
			c.chunks, c.ext = h.structured || h.extended, h.extended
			return err
		}
	}
}

// option reads one option and answers it. It reports whether an export was
// chosen.
func (h *haggle) option() (bool, error) {
	var head [optionLen]byte
	if _, err := io.ReadFull(h.c.sock, head[:]); err != nil {
		return false, err
	}
	o := parseOption(head[:])
	if o.magic != protocol.NEGOTIATION_MAGIC_OPTION {
		return false, errOptionMagic
	}
	if o.length > maxOption {
		return false, errOptionSize
	}
	if o.length > maxOptionBuf {
		if _, err := io.CopyN(io.Discard, h.c.sock, int64(o.length)); err != nil {
			return false, err
		}
		return h.tooLong(o.id)
	}
	if int(o.length) > cap(h.data) {
		h.data = make([]byte, o.length)
	}
	h.data = h.data[:o.length]
	if _, err := io.ReadFull(h.c.sock, h.data); err != nil {
		return false, err
	}
	return h.answer(o.id)
}

// tooLong answers an option whose data was thrown away.
func (h *haggle) tooLong(id uint32) (bool, error) {
	switch id {
	case optExportName:
		return false, errLongName // this option has no error reply
	case protocol.NEGOTIATION_ID_OPTION_INFO, protocol.NEGOTIATION_ID_OPTION_GO, optListMeta, optSetMeta:
		h.meta = h.meta && id != optSetMeta
		return false, h.refuse(id, repErrTooBig, "option data is too long")
	}
	h.data = h.scratch[:1] // the others take none, or are not known
	return h.answer(id)
}

// answer acts on the option whose data is in h.data.
func (h *haggle) answer(id uint32) (bool, error) {
	switch id {
	case optExportName:
		return true, h.exportName()
	case protocol.NEGOTIATION_ID_OPTION_ABORT:
		return false, errors.Join(h.reply(id, protocol.NEGOTIATION_TYPE_REPLY_ACK), h.w.Flush(), errAborted)
	case protocol.NEGOTIATION_ID_OPTION_INFO, protocol.NEGOTIATION_ID_OPTION_GO:
		return h.info(id)
	case optListMeta, optSetMeta:
		return false, h.contexts(id)
	case protocol.NEGOTIATION_ID_OPTION_LIST, optStructured, optExtended:
		if len(h.data) != 0 {
			return false, h.refuse(id, repErrInvalid, "this option takes no data")
		}
	default: // STARTTLS among them
		return false, h.refuse(id, protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED, "option is not supported")
	}
	switch {
	case id == protocol.NEGOTIATION_ID_OPTION_LIST:
		return false, h.list()
	case id == optExtended:
		h.extended = true
	case h.extended:
		return false, h.refuse(id, repErrExtended, "extended headers are in use already")
	default:
		h.structured = true
	}
	return false, h.reply(id, protocol.NEGOTIATION_TYPE_REPLY_ACK)
}

// reply writes the pieces of one reply to option id.
func (h *haggle) reply(id, typ uint32, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := h.scratch[:]
	binary.BigEndian.PutUint64(b, protocol.NEGOTIATION_MAGIC_REPLY)
	binary.BigEndian.PutUint32(b[8:], id)
	binary.BigEndian.PutUint32(b[12:], typ)
	binary.BigEndian.PutUint32(b[16:], uint32(n))
	_, err := h.w.Write(b)
	for _, p := range parts {
		if err == nil {
			_, err = h.w.Write(p)
		}
	}
	return err
}

// refuse replies with an error and a fixed text; nothing a client sent is
// repeated in it.
func (h *haggle) refuse(id, typ uint32, text string) error {
	return h.reply(id, typ, []byte(text))
}

// refuseFor answers an error of the parser or of Exports.Open.
func (h *haggle) refuseFor(id uint32, err error) error {
	var st block.Status
	switch {
	case errors.Is(err, errMalformed):
		return h.refuse(id, repErrInvalid, errMalformed.Error())
	case errors.Is(err, errLongName):
		return h.refuse(id, repErrTooBig, errLongName.Error())
	case !errors.As(err, &st):
		h.c.srv.opt.Log.Warn("nbd: export cannot be opened", "err", err)
		return h.refuse(id, repErrPolicy, errNoExport.Error())
	case st == block.StatusNotFound || st == block.StatusDenied:
		return h.refuse(id, protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN, "no such export")
	case st == block.StatusClosed:
		return h.refuse(id, repErrShutdown, "shutting down")
	}
	return h.refuse(id, repErrPolicy, st.Error())
}

func clip(s string) []byte { return []byte(s[:min(len(s), maxString)]) }

func (h *haggle) list() error {
	const id = protocol.NEGOTIATION_ID_OPTION_LIST
	for _, e := range h.c.srv.opt.Exports.List() {
		name := clip(e.Name)
		length := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		if err := h.reply(id, protocol.NEGOTIATION_TYPE_REPLY_SERVER, length, name, clip(e.Description)); err != nil {
			return err
		}
	}
	return h.reply(id, protocol.NEGOTIATION_TYPE_REPLY_ACK)
}

// exportName answers the option that cannot fail but by closing.
func (h *haggle) exportName() error {
	switch {
	case h.extended:
		return errNameOption
	case len(h.data) > maxString:
		return errLongName
	}
	e, err := h.c.srv.open(h.c, string(h.data))
	if err == nil {
		err = h.c.srv.join(h.c)
	}
	if err != nil {
		return errors.Join(errNoExport, err)
	}
	i := e.info()
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 134), i.Size)
	b = binary.BigEndian.AppendUint16(b, e.flags(i, h.structured))
	if !h.noZeroes {
		b = b[:134]
	}
	h.c.meta = h.meta && h.metaName == string(h.data)
	_, err = h.w.Write(b)
	return err
}

// info answers INFO and GO.
func (h *haggle) info(id uint32) (bool, error) {
	q, err := parseInfo(h.data)
	if err != nil {
		return false, h.refuseFor(id, err)
	}
	e, err := h.c.srv.open(h.c, q.name)
	if err != nil {
		return false, h.refuseFor(id, err)
	}
	chosen := id == protocol.NEGOTIATION_ID_OPTION_GO
	if !chosen {
		defer h.c.srv.letGo(h.c)
	} else if err := h.c.srv.join(h.c); err != nil {
		return false, err
	}
	h.c.meta = h.meta && h.metaName == q.name
	for _, b := range h.infos(e, &q) {
		if err := h.reply(id, protocol.NEGOTIATION_TYPE_REPLY_INFO, b); err != nil {
			return false, err
		}
	}
	return chosen, h.reply(id, protocol.NEGOTIATION_TYPE_REPLY_ACK)
}

// infos returns the information items of e that q wants. Size and block sizes
// are always among them.
func (h *haggle) infos(e *Export, q *infoRequest) [][]byte {
	i := e.info()
	u16, u32 := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint32
	export := u16(nil, protocol.NEGOTIATION_TYPE_INFO_EXPORT)
	export = binary.BigEndian.AppendUint64(export, i.Size)
	export = u16(export, e.flags(i, h.structured || h.extended))

	smallest := max(i.BlockSize, 1)
	sizes := u16(nil, protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE)
	sizes = u32(sizes, smallest)
	sizes = u32(sizes, max(smallest, block.MaxBlockSize))
	sizes = u32(sizes, uint32(h.c.srv.payload))

	all := [][]byte{export, sizes}
	if q.wants[protocol.NEGOTIATION_TYPE_INFO_NAME] {
		all = append(all, append(u16(nil, protocol.NEGOTIATION_TYPE_INFO_NAME), clip(e.Name)...))
	}
	if q.wants[protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION] && e.Description != "" {
		all = append(all, append(u16(nil, protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION), clip(e.Description)...))
	}
	return all
}

// contexts answers LIST_META_CONTEXT and SET_META_CONTEXT.
func (h *haggle) contexts(id uint32) error {
	set := id == optSetMeta
	if set {
		h.meta = false // also when this one fails
	}
	if !h.structured && !h.extended {
		return h.refuse(id, repErrInvalid, "needs structured replies")
	}
	q, err := parseMeta(h.data)
	if err != nil {
		return h.refuseFor(id, err)
	}
	if _, err := h.c.srv.open(h.c, q.name); err != nil {
		return h.refuseFor(id, err)
	}
	h.c.srv.letGo(h.c)
	found := q.exact || !set && (q.wildcard || q.queries == 0)
	if found {
		var number [4]byte
		if set {
			h.meta, h.metaName = true, q.name
			binary.BigEndian.PutUint32(number[:], contextID)
		}
		if err := h.reply(id, repMeta, number[:], []byte(contextName)); err != nil {
			return err
		}
	}
	return h.reply(id, protocol.NEGOTIATION_TYPE_REPLY_ACK)
}
