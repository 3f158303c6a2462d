// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"os"
	"strconv"
)

// Barrier returns when every request that was given to a device before the
// call has ended; what comes meanwhile waits. It has no end while requests
// have none.
//
// The block layer has no such call for users, but changing the queue's depth
// freezes the queue until it is empty (blk_mq_update_nr_requests, block/blk-mq.c),
// so it is changed and changed back.
func Barrier(index int) error {
	path := fmt.Sprintf("/sys/block/nbd%d/queue/nr_requests", index)
	b, err := os.ReadFile(path)
	var n int
	if err == nil {
		n, err = strconv.Atoi(string(trim(b)))
	}
	for _, depth := range []int{n - 1, n} {
		if err == nil {
			err = os.WriteFile(path, strconv.AppendInt(nil, int64(depth), 10), 0o644)
		}
	}
	if err != nil {
		return fmt.Errorf("kernel device %d: wait for its requests: %w", index, err)
	}
	return nil
}
