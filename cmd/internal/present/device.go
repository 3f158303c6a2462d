// SPDX-License-Identifier: Apache-2.0

package present

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"rsio/nbd/client"
	"rsio/nbd/kernel"
	"rsio/rsio/admin/api"
	"rsio/rsio/audit"
)

// identifier is what a kernel device of s is recognized by: by a successor of
// this process, and by the udev rule.
func (p *Presenter) identifier(s *shown) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(p.opt.Run)) // never fails
	return fmt.Sprintf("rsio:%08x:%s", h.Sum32(), s.path())
}

// kernelDriver opens the driver when it is first needed. p.change is held.
func (p *Presenter) kernelDriver() (*kernel.Driver, error) {
	p.mu.Lock()
	d := p.driver
	p.mu.Unlock()
	if d != nil {
		return d, nil
	}
	d, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	if err := d.Watch(func(int) { p.poke() }); err != nil {
		p.opt.Events.Add(audit.Warning, "kernel nbd", "its news cannot be heard, dead connections are noticed within a second: "+err.Error())
	}
	p.mu.Lock()
	p.driver = d
	p.mu.Unlock()
	return d, nil
}

// makeDevice makes the kernel device of s, or takes over the one that a
// predecessor made. p.change is held.
func (p *Presenter) makeDevice(ctx context.Context, s *shown) error {
	if s.index >= 0 {
		return p.name(s, kernel.Path(s.index))
	}
	d, err := p.kernelDriver()
	if errors.Is(err, kernel.ErrNoDriver) && kernel.Old() {
		return p.attachOld(ctx, s)
	}
	if errors.Is(err, kernel.ErrNoDriver) {
		return api.Errorf(api.Failed, "attach", s.Name, "this kernel has no nbd driver: "+err.Error(),
			"modprobe nbd, or use --fuse for a file, or --loop for a block device on it")
	}
	if err != nil {
		return err
	}
	index, err := kernel.Find(p.identifier(s))
	if err != nil {
		return err
	}
	if index < 0 {
		if index, err = p.connectDevice(ctx, d, s); err != nil {
			return err
		}
	}
	p.mu.Lock()
	s.index = index
	p.mu.Unlock()
	if err := p.mendDevice(ctx, s, true); err != nil {
		return err
	}
	return p.name(s, kernel.Path(index))
}

func (s *shown) connections() int { return max(1, s.Show.Connections) }

// connectDevice makes a new device.
func (p *Presenter) connectDevice(ctx context.Context, d *kernel.Driver, s *shown) (int, error) {
	cfg := kernel.Config{Index: -1, Identifier: p.identifier(s)}
	for range s.connections() {
		conn, info, err := p.dialDevice(ctx, s)
		if err != nil {
			return -1, err
		}
		defer func() { _ = conn.Close() }() // the kernel has a reference of its own
		cfg.Sockets = append(cfg.Sockets, conn)
		cfg.Size, cfg.BlockSize, cfg.Flags = info.Size, blockSize(info), info.Flags
	}
	return d.Connect(cfg)
}

// attachOld attaches the device by ioctl, for a driver without netlink. It ends
// with this process.
func (p *Presenter) attachOld(ctx context.Context, s *shown) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, info, err := client.Dial(ctx, p.opt.Socket, forKernel+s.Name)
	if err != nil {
		return err
	}
	d, err := kernel.AttachIoctl(ctx, conn, info.Size, info.Flags, blockSize(info))
	if err != nil {
		return err
	}
	p.opt.Events.Add(audit.Warning, s.Name, kernel.Path(d.Index)+": this kernel's nbd driver is an old one: the device ends with the initiator, and does not follow the volume's size")
	p.mu.Lock()
	s.index, s.old = d.Index, d
	p.mu.Unlock()
	return p.name(s, kernel.Path(d.Index))
}

// blockSize is what the kernel uses as the logical block: what the export must
// be given, 512 at least.
func blockSize(info client.Info) uint32 { return max(info.MinBlock, 512) }

// dialDevice opens a connection for the kernel to the export of s.
func (p *Presenter) dialDevice(ctx context.Context, s *shown) (*os.File, client.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, info, err := client.Dial(ctx, p.opt.Socket, forKernel+s.Name)
	if err != nil {
		return nil, info, err
	}
	f, err := conn.File() // a duplicate, in blocking mode as the kernel wants it
	return f, info, errors.Join(err, conn.Close())
}

// dialTimeout is how long our own server has to answer.
const dialTimeout = 5 * time.Second

// mendDevice gives a kernel device new sockets for those that died, and the
// size of its volume. p.change is held.
func (p *Presenter) mendDevice(ctx context.Context, s *shown, resized bool) error {
	if s.old != nil {
		select {
		case <-s.old.Done():
			return fmt.Errorf("the connection of %s has ended, and this kernel cannot be given another: detach and attach it", kernel.Path(s.index))
		default:
			return nil
		}
	}
	d, err := p.kernelDriver()
	if err != nil {
		return err
	}
	if _, err := os.Stat(fmt.Sprintf("/sys/block/nbd%d/pid", s.index)); err != nil {
		p.mu.Lock()
		s.index = -1
		p.mu.Unlock()
		return errors.New("its kernel device was disconnected by somebody else: detach and attach it")
	}
	// One try for each: a socket that the kernel did not want ends when we close
	// it, and is seen to be missing the next time.
	for range s.connections() - p.srv.Stats().Exports[forKernel+s.Name] {
		conn, _, err := p.dialDevice(ctx, s)
		if err != nil {
			return err
		}
		err = d.Reconfigure(kernel.Config{Index: s.index, Identifier: p.identifier(s), Sockets: []*os.File{conn}})
		_ = conn.Close() // the kernel has a reference of its own, if it took it
		if err != nil {
			return fmt.Errorf("%s: new socket: %w", kernel.Path(s.index), err)
		}
		p.opt.Events.Add(audit.Info, s.Name, kernel.Path(s.index)+" was given a new connection")
	}
	if !resized {
		return nil
	}
	a := p.attachments.Load()
	if a == nil {
		return nil
	}
	dev, _, _, ok := (*a).Find(s.Name)
	if size := uint64(0); ok {
		if size = dev.Info().Size; size != kernel.Size(s.index) {
			return d.Resize(s.index, p.identifier(s), size)
		}
	}
	return nil
}

// dropDevice takes the kernel device of s off.
func (p *Presenter) dropDevice(ctx context.Context, s *shown, force bool) error {
	if s.index < 0 {
		return nil
	}
	dev := kernel.Path(s.index)
	f, err := hold(dev, force)
	if err != nil && !force {
		return inUse(s.Name, append(deviceUsers(dev), err.Error()))
	}
	// The driver sends its farewell under the lock of a connection, which a
	// sender holds that waits for us to read; with the path down and our memory
	// for requests used up we do not. The call would wait in the kernel, where it
	// cannot be killed. A connection that has ended cannot hold it up.
	p.closeExport(forKernel + s.Name)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := p.disconnect(ctx, s, f); err != nil && !force {
		return fmt.Errorf("%s: %w", dev, err)
	}
	unlink(filepath.Join(devDir, s.path()), dev)
	p.mu.Lock()
	s.index, s.old = -1, nil
	p.mu.Unlock()
	return nil
}

// disconnect ends the kernel device of s, which hold, if not nil, keeps others
// from opening.
func (p *Presenter) disconnect(ctx context.Context, s *shown, hold *os.File) error {
	if s.old != nil {
		if hold != nil {
			_ = hold.Close() // it would keep the driver from letting go
		}
		return s.old.Detach()
	}
	d, err := p.kernelDriver()
	if err != nil {
		return err
	}
	return d.Disconnect(ctx, s.index, hold)
}
