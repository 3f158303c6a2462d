// SPDX-License-Identifier: Apache-2.0

// Package kernel attaches /dev/nbdN of the kernel's nbd driver by generic
// netlink (include/uapi/linux/nbd-netlink.h). The driver is given sockets in
// the transmission phase with simple replies, and takes a reference of its
// own.
//
// # Timeouts
//
// The rules of drivers/block/nbd.c (nbd_xmit_timeout, wait_for_reconnect), and
// what follows:
//
//   - One connection and no timeout: a request that takes long is only noted in
//     the kernel's log, each time the block layer's timer fires, and waits on.
//     If its socket has been replaced meanwhile, it is sent again on the new one
//     at that moment. The timer is the queue's io_timeout, 30 s by default: that
//     long the requests that were with a server when it died would wait after
//     a successor has come. So Connect sets it to ioTimeout. Measured in a
//     guest with one CPU under load: the longest request over kill -9 and restart
//     of the server takes 1.7 to 2.2 s.
//   - Several connections, or a timeout: when the timer fires the request is
//     sent again on a live connection, and its socket is shut down. The timer
//     is 30 s where no timeout was asked for, and Connect sets it to
//     ioTimeoutSeveral, the same: what was with a server that died, or had not
//     been read by one that ended in good order, waits as long as that, because
//     nothing else sends it again. But a shorter timer is no good where requests
//     take longer by themselves. They cost their connection, are executed for
//     nobody, are sent again and take as long again; and a request keeps the
//     timer that it began with. Measured: 16 readers of 1 MiB over links that
//     carry that in 7 s got nothing done in 100 s at a timer of 5 s, and lost no
//     connection at one of 30 s.
//   - A device without a live connection waits for a new one for as long as the
//     dead-connection timeout says; without one its requests fail at once.
//
// Sending again is safe with our own server at the other end of a local unix
// socket: it sees the end of the old connection at once, and holds a change
// that overlaps one of a connection that has ended back until that one has
// completed (package nbd, orphans). With a server that does not, a write could
// be executed after a newer one was acknowledged.
package kernel
