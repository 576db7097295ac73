//go:build torture

package powercut

import (
	"errors"
	"time"
)

func firstLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	c.read(central, 0)
	return errors.Join(c.put(process, 6, 2), c.close())
}

func blockLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	tap := c.read(central, 3)
	err := c.put(process, 60, 4)
	tap.pause()
	filled := make(chan error, 1)
	go func() { filled <- c.put(process, 260, 5) }()
	err = errors.Join(err, c.until("the class blocks", c.blocked))
	tap.resume(1)
	return errors.Join(err, <-filled, c.put(process, 16, 2), c.close())
}

func paceLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	fast, behind := c.read(central, 0), c.read(slow, 6)
	var err error
	for range 12 {
		err = errors.Join(err, c.put(process, 8, 4), c.put(alarm, 1, 1))
	}
	behind.pause()
	for range 8 {
		err = errors.Join(err, c.put(process, 9, 3), c.put(alarm, 2, 2))
	}
	fast.pause()
	behind.resume(2)
	err = errors.Join(err, c.put(process, 40, 8))
	fast.resume(1)
	return errors.Join(err, c.put(process, 24, 3), c.close())
}

func dropOldestLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	tap := c.read(central, 2)
	err := c.put(process, 40, 4)
	tap.pause()
	err = errors.Join(err, c.put(process, 240, 5)) // what the uplink lacks is dropped
	tap.resume(4)
	err = errors.Join(err, c.until("the uplink comes past the gap", func() bool { return tap.behind() < 40 }))
	tap.pause()
	err = errors.Join(err, c.put(process, 180, 6))
	tap.resume(0)
	return errors.Join(err, c.put(process, 20, 2), c.close())
}

func dropNewestLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	tap := c.read(central, 2)
	err := c.put(process, 30, 3)
	tap.pause()
	err = errors.Join(err, c.put(process, 190, 10)) // the last ones are refused
	err = errors.Join(err, c.put(process, 6, 2))
	tap.resume(0)
	err = errors.Join(err, c.until("the uplink has read", func() bool { return tap.behind() == 0 }))
	err = errors.Join(err, c.put(process, 60, 4))
	tap.pause()
	err = errors.Join(err, c.put(process, 130, 10))
	tap.resume(0)
	return errors.Join(err, c.put(process, 10, 2), c.close())
}

func expireLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	tap := c.read(central, 2)
	err := c.put(process, 20, 4)
	tap.pause()
	err = errors.Join(err, c.put(process, 110, 5))
	time.Sleep(1100 * time.Millisecond) // expiry is looked for once a second
	err = errors.Join(err, c.put(process, 40, 4))
	time.Sleep(1100 * time.Millisecond)
	err = errors.Join(err, c.put(process, 4, 1))
	tap.resume(2)
	c.skipTo(1000) // old ones again
	err = errors.Join(err, c.put(process, 60, 4))
	tap.pause()
	err = errors.Join(err, c.put(process, 70, 5))
	time.Sleep(1100 * time.Millisecond)
	err = errors.Join(err, c.put(process, 20, 4))
	tap.resume(1)
	return errors.Join(err, c.put(process, 12, 3), c.close())
}

// killedLife ends as by kill -9, with events on their way.
func killedLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	c.read(central, 1)
	c.read(slow, 7)
	err := c.put(process, 110, 5)
	c.feed(process, 24)
	time.Sleep(3 * time.Millisecond)
	if err == nil {
		err = c.kill()
	}
	return err
}

// behindLife has events that no disk sees, then some that an uplink is too slow
// for, and is killed.
func behindLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	c.read(central, 0)
	behind := c.read(slow, 0)
	err := c.put(process, 40, 4)
	behind.pause()
	err = errors.Join(err, c.put(process, 70, 5))
	behind.resume(0)
	err = errors.Join(err, c.put(process, 40, 4))
	c.feed(process, 12)
	time.Sleep(3 * time.Millisecond)
	if err == nil {
		err = c.kill()
	}
	return err
}

// manyLife uses up, within one process, the numbers that are set aside at a time
// (65,536), without writing an event.
func manyLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	c.read(central, 0)
	var err error
	for range 170 {
		err = errors.Join(err, c.bulk(process, 400))
	}
	err = errors.Join(err, c.put(process, 6, 2))
	if err == nil {
		err = c.kill()
	}
	return err
}

func thinLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	tap := c.read(central, 2)
	err := c.put(process, 40, 4)
	tap.pause()
	err = errors.Join(err, c.put(process, 420, 6))
	tap.resume(1)
	err = errors.Join(err, c.until("the uplink comes past what was thinned", func() bool { return tap.behind() < 40 }))
	return errors.Join(err, c.put(process, 30, 3), c.close())
}

func mergeLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	c.read(central, 1)
	behind := c.read(slow, 2)
	err := c.put(process, 12, 1)
	behind.pause()
	err = errors.Join(err, c.put(process, 340, 2))
	behind.resume(0)
	return errors.Join(err, c.put(process, 24, 2), c.close())
}

func closedLife(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	c.read(central, 0)
	c.read(slow, 2)
	return errors.Join(c.put(process, 60, 5), c.close())
}

// afterCut starts on what a power cut has left.
func afterCut(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	for uplink := range c.scenario.uplinks {
		c.read(uplink, 1)
	}
	var err error
	for range 5 {
		for _, class := range c.scenario.classes {
			err = errors.Join(err, c.put(class.Name, 4, 2))
		}
	}
	return errors.Join(err, c.close())
}

// The brief ones go on whatever fails: a call of theirs is made to fail each time.

func briefLife(c *child) error {
	c.openSomehow()
	c.read(central, 0)
	behind := c.read(slow, 2)
	_ = c.put(process, 8, 1)
	behind.pause()
	_ = c.put(process, 3, 1)
	behind.resume(0)
	_ = c.put(process, 2, 1)
	_ = c.close()
	return nil
}

// afterKill goes on after a kill.
func afterKill(c *child) error {
	if err := c.open(); err != nil {
		return err
	}
	for uplink := range c.scenario.uplinks {
		c.read(uplink, 0)
	}
	return errors.Join(c.put(process, 2, 1), c.close())
}

func briefDropLife(c *child) error {
	c.openSomehow()
	tap := c.read(central, 0)
	_ = c.put(process, 4, 1)
	tap.pause()
	_ = c.put(process, 27, 3)
	tap.resume(1)
	_ = c.put(process, 3, 1)
	_ = c.close()
	return nil
}

func briefRefuseLife(c *child) error {
	c.openSomehow()
	tap := c.read(central, 0)
	_ = c.put(process, 3, 1)
	tap.pause()
	_ = c.put(process, 20, 5)
	tap.resume(0)
	_ = c.put(process, 3, 1)
	_ = c.close()
	return nil
}
