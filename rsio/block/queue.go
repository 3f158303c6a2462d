// SPDX-License-Identifier: Apache-2.0

package block

// Queue is a first-in-first-out list of requests linked through Request.Next.
// It does not lock; the zero value is empty.
type Queue struct {
	head, tail *Request
	n          int
}

// Push appends r, which must not be in another queue.
func (q *Queue) Push(r *Request) {
	r.Next = nil
	if q.tail == nil {
		q.head = r
	} else {
		q.tail.Next = r
	}
	q.tail = r
	q.n++
}

// Pop removes and returns the first request, or nil.
func (q *Queue) Pop() *Request {
	r := q.head
	if r == nil {
		return nil
	}
	q.head = r.Next
	if q.head == nil {
		q.tail = nil
	}
	r.Next = nil
	q.n--
	return r
}

// Peek returns the first request without removing it, or nil.
func (q *Queue) Peek() *Request { return q.head }

// Len returns the number of requests in the queue.
func (q *Queue) Len() int { return q.n }

// Take returns the whole queue and leaves q empty.
func (q *Queue) Take() Queue {
	t := *q
	*q = Queue{}
	return t
}

// FinishAll completes every request of the queue with st.
func (q *Queue) FinishAll(st Status) {
	for r := q.Pop(); r != nil; r = q.Pop() {
		Finish(r, st)
	}
}
