// SPDX-License-Identifier: Apache-2.0

package nbd

import (
	"encoding/binary"
	"errors"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Handshake values that go-nbd does not name.
const (
	flagNoZeroes = uint16(1 << 1) // server: may leave out the 124 zeroes of EXPORT_NAME

	clientFixed    = uint32(1 << 0)
	clientNoZeroes = uint32(1 << 1)

	optExportName = uint32(1)
	optStartTLS   = uint32(5)
	optStructured = uint32(8)
	optListMeta   = uint32(9)
	optSetMeta    = uint32(10)
	optExtended   = uint32(11)

	repMeta        = uint32(4)
	repErr         = uint32(1 << 31)
	repErrPolicy   = repErr | 2
	repErrInvalid  = repErr | 3
	repErrShutdown = repErr | 7
	repErrTooBig   = repErr | 9
	repErrExtended = repErr | 10
)

// Transmission flags.
const (
	exportReadOnly  = uint16(1 << 1)
	exportFlush     = uint16(1 << 2)
	exportFUA       = uint16(1 << 3)
	exportTrim      = uint16(1 << 5)
	exportZeroes    = uint16(1 << 6)
	exportDF        = uint16(1 << 7)
	exportCache     = uint16(1 << 10)
	exportFastZero  = uint16(1 << 11)
	exportHasFlags  = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	exportMultiConn = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
)

// Commands.
const (
	cmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	cmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	cmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	cmdFlush       = uint16(3)
	cmdTrim        = uint16(4)
	cmdCache       = uint16(5)
	cmdWriteZeroes = uint16(6)
	cmdBlockStatus = uint16(7)
)

// Command flags.
const (
	flagFUA      = uint16(1 << 0)
	flagNoHole   = uint16(1 << 1)
	flagDF       = uint16(1 << 2)
	flagReqOne   = uint16(1 << 3)
	flagFastZero = uint16(1 << 4)
	flagPayload  = uint16(1 << 5)
)

// Reply chunks.
const (
	chunkDone = uint16(1 << 0)

	chunkNone      = uint16(0)
	chunkData      = uint16(1)
	chunkStatus    = uint16(5)
	chunkStatusExt = uint16(6)
	chunkError     = uint16(1<<15 | 1)
)

// Magic numbers of messages.
const (
	magicRequest    = protocol.TRANSMISSION_MAGIC_REQUEST
	magicReply      = protocol.TRANSMISSION_MAGIC_REPLY
	magicChunk      = uint32(0x668e33ef)
	magicExtRequest = uint32(0x21e41c71)
	magicExtReply   = uint32(0x6e8a278c)
)

// Sizes of messages in bytes.
const (
	requestLen    = 28
	extRequestLen = 32
	simpleLen     = 16
	chunkLen      = 20
	extChunkLen   = 32
)

// errno is an error of the transmission phase; its values are the wire's.
type errno uint32

const (
	errnoOK       errno = 0
	errnoPerm     errno = errno(protocol.TRANSMISSION_ERROR_EPERM)
	errnoIO       errno = 5
	errnoNoMem    errno = 12
	errnoInval    errno = errno(protocol.TRANSMISSION_ERROR_EINVAL)
	errnoNoSpace  errno = 28
	errnoOverflow errno = 75
	errnoNotSup   errno = 95
	errnoShutdown errno = 108
)

// maxPayload is the largest payload of a request or reply in bytes; clients
// take it for granted.
const maxPayload = 32 << 20

// header is a request as it came in. It is decoded from either form.
type header struct {
	flags, cmd  uint16
	cookie, off uint64
	length      uint64
}

// Why a connection ends early.
var (
	errMagic    = errors.New("request with a wrong magic number")
	errTooLarge = errors.New("request with a payload above 32 MiB")
)

// parseRequest decodes the request at the start of b, which holds at least
// extRequestLen (ext) or requestLen bytes.
func parseRequest(b []byte, ext bool) (header, error) {
	_ = b[requestLen-1]
	h := header{
		flags:  binary.BigEndian.Uint16(b[4:]),
		cmd:    binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]),
		off:    binary.BigEndian.Uint64(b[16:]),
	}
	magic := binary.BigEndian.Uint32(b)
	if ext {
		h.length = binary.BigEndian.Uint64(b[24:extRequestLen])
		if magic != magicExtRequest {
			return h, errMagic
		}
	} else {
		h.length = uint64(binary.BigEndian.Uint32(b[24:]))
		if magic != magicRequest {
			return h, errMagic
		}
	}
	if h.payload(ext) > maxPayload {
		return h, errTooLarge
	}
	return h, nil
}

// payload returns the number of bytes that follow the header.
func (h *header) payload(ext bool) uint64 {
	if ext {
		if h.flags&flagPayload != 0 {
			return h.length
		}
		return 0
	}
	if h.cmd == cmdWrite {
		return h.length
	}
	return 0
}

// putSimple encodes a simple reply and returns its length.
func putSimple(b []byte, cookie uint64, e errno) int {
	_ = b[simpleLen-1]
	binary.BigEndian.PutUint32(b, magicReply)
	binary.BigEndian.PutUint32(b[4:], uint32(e))
	binary.BigEndian.PutUint64(b[8:], cookie)
	return simpleLen
}

// putChunk encodes the header of a structured or extended reply chunk with
// length bytes of payload and returns its own length. off is that of the
// request.
func putChunk(b []byte, ext bool, flags, typ uint16, cookie, off uint64, length int) int {
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], typ)
	binary.BigEndian.PutUint64(b[8:], cookie)
	if ext {
		binary.BigEndian.PutUint32(b, magicExtReply)
		binary.BigEndian.PutUint64(b[16:], off)
		binary.BigEndian.PutUint64(b[24:], uint64(length))
		return extChunkLen
	}
	binary.BigEndian.PutUint32(b, magicChunk)
	binary.BigEndian.PutUint32(b[16:], uint32(length))
	return chunkLen
}
