// SPDX-License-Identifier: Apache-2.0

package block

// Status is the outcome of a request on the data path. It is an error whose
// values box without allocating. Values are those of the RSIO wire and are
// never renumbered (docs/protocol.md, "Status").
type Status uint16

// The outcomes.
const (
	StatusOK          Status = 0
	StatusIO          Status = 1  // the medium failed
	StatusNoSpace     Status = 2  // the pool is full
	StatusInvalid     Status = 3  // range, alignment, length or combination is wrong
	StatusUnsupported Status = 4  // this device does not know the operation or flag
	StatusReadOnly    Status = 5  // the volume or this attachment must not be changed
	StatusConflict    Status = 6  // fenced: a reservation or an epoch forbids it
	StatusClosed      Status = 7  // the device, session or attachment has ended
	StatusNotFound    Status = 8  // no such volume, or none this nexus may know of
	StatusInUse       Status = 9  // held by somebody else
	StatusBusy        Status = 10 // a named limit is reached; nothing was executed
	StatusUnknown     Status = 11 // outcome unknown: it may have executed before, it will not from now on
	StatusLost        Status = 12 // flush: data acknowledged earlier may be gone (new incarnation)
	StatusDenied      Status = 13 // the identity may not do this
	StatusProtocol    Status = 14 // the peer broke the protocol
	StatusTimeout     Status = 15 // gave up waiting; it will not execute from now on
	StatusDraining    Status = 16 // try again soon: the predecessor is still being drained
	StatusStale       Status = 17 // older than what the receiver knows (sequence, epoch)
	StatusNoSession   Status = 18 // the session to join does not exist here
	StatusExists      Status = 19 // the name is taken
	StatusMiscompare  Status = 20 // compare-and-write: what is there is not what was expected; nothing was written
	statusEnd         Status = 21
)

var statusText = [statusEnd]string{
	"ok", "input/output error", "no space left", "invalid request", "not supported", "read-only",
	"reservation conflict", "closed", "not found", "in use", "busy", "outcome unknown",
	"acknowledged data may be lost", "permission denied", "protocol error", "timed out",
	"draining", "stale", "no such session", "exists", "miscompare",
}

// Error returns the text of the status; it makes Status an error. StatusOK is
// not an error: use Err.
func (s Status) Error() string {
	if s < statusEnd {
		return statusText[s]
	}
	return "unknown status"
}

// Known reports whether s is one of the outcomes above.
func (s Status) Known() bool { return s < statusEnd }

// Err returns nil for StatusOK and s otherwise.
func (s Status) Err() error {
	if s == StatusOK {
		return nil
	}
	return s
}
