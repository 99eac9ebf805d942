package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	settle  = 300 * time.Millisecond // between the last stream's opening and the window
	spare   = 900 * time.Millisecond // how long opening may take before streams end inside the window
	after   = 200 * time.Millisecond // between the last stream's end and the end of the whole run
	opening = 16                     // streams opened at a time; listen queues can be as short as 100
)

// streams is one run of the stream load. The counters see all of the run; the
// histograms only the window.
type streams struct {
	door
	number, rate    int
	inStep          bool
	window          time.Duration
	records, octets atomic.Int64
	reads           atomic.Int64
	finished        atomic.Int64
	inWindow        atomic.Bool
	delayUs, lateUs *histogram
	faults          faults
	opened, ended   sync.WaitGroup
}

// runStream opens the streams, measures a window while all of them run, then
// waits for their ends and checks every byte. The whole run, with what beginning
// and ending the streams costs, has figures of its own.
func runStream(arguments []string) error {
	flags := flag.NewFlagSet("stream", flag.ExitOnError)
	s := &streams{delayUs: newHistogram(), lateUs: newHistogram()}
	s.door.flags(flags)
	flags.IntVar(&s.number, "streams", 48, "concurrent streams")
	flags.IntVar(&s.rate, "rate", 100, "chunks per second and stream")
	flags.BoolVar(&s.inStep, "in-step", false, "have all streams written in one go")
	flags.DurationVar(&s.window, "window", 5*time.Second, "length of the window")
	var watched processes
	watched.flags(flags)
	flags.Parse(arguments)
	return report(s.measure(watched))
}

func (s *streams) measure(watched processes) map[string]any {
	first := watched.now()
	s.open()
	time.Sleep(settle)
	s.inWindow.Store(true)
	records, octets, reads, start := s.records.Load(), s.octets.Load(), s.reads.Load(), watched.now()
	time.Sleep(s.window)
	end := watched.now()
	figures := between(start, end)
	figures["chunks"] = s.records.Load() - records
	figures["bytes"] = s.octets.Load() - octets
	figures["reads"] = s.reads.Load() - reads
	s.inWindow.Store(false)
	if early := s.finished.Load(); early > 0 {
		s.faults.add(fmt.Errorf("%d streams ended before the window did", early))
	}
	s.ended.Wait()
	time.Sleep(after)
	figures["whole"] = between(first, watched.now())
	return s.complete(figures)
}

// complete adds what is known only after the last stream has ended.
func (s *streams) complete(figures map[string]any) map[string]any {
	figures["offered"] = float64(s.number*s.rate) * s.window.Seconds()
	figures["all_chunks"] = s.records.Load()
	figures["all_bytes"] = s.octets.Load()
	figures["all_reads"] = s.reads.Load()
	figures["sent_chunks"] = s.number * s.count()
	figures["sent_bytes"] = s.number * streamBytes(s.count())
	figures["delay_us"] = s.delayUs.summary()
	figures["late_us"] = s.lateUs.summary()
	figures["faults"] = s.faults.count
	figures["reasons"] = s.faults.first
	return figures
}

// count is the number of delta records per stream.
func (s *streams) count() int {
	return int((s.window + settle + spare).Seconds() * float64(s.rate))
}

// open returns when each stream has its first record, or has failed.
func (s *streams) open() {
	request := s.chatRequest(question{Stream: true, MaxTokens: s.count(), Seed: int64(1_000_000 / s.rate), InStep: s.inStep})
	doors := make(chan struct{}, opening)
	s.opened.Add(s.number)
	s.ended.Add(s.number)
	for i := 0; i < s.number; i++ {
		doors <- struct{}{}
		go s.follow(request, once(func() { <-doors; s.opened.Done() }))
	}
	s.opened.Wait()
}

func (s *streams) follow(request []byte, opened func()) {
	defer s.ended.Done()
	defer opened()
	c, err := dial(s.address, s.window+30*time.Second)
	if err == nil {
		defer c.Close()
		err = s.read(c, request, opened)
	}
	if err != nil {
		s.faults.add(err)
	}
	s.finished.Add(1)
}

// read takes one stream from its request to its last byte. The body must end
// cleanly: an abrupt end is a fault even when all records came.
func (s *streams) read(c *client, request []byte, opened func()) error {
	response, err := c.post(request)
	if err != nil {
		return err
	}
	check := checker{streams: s, opened: opened}
	buffer := make([]byte, 4096)
	for {
		n, err := response.Body.Read(buffer)
		if n > 0 {
			s.reads.Add(1)
			s.octets.Add(int64(n))
			if err := check.feed(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return check.end(s.count())
		}
		if err != nil {
			return err
		}
	}
}

// checker splits one stream into records and compares them with what the fake
// server writes, in order.
type checker struct {
	*streams
	opened func()
	rest   []byte
	deltas int
	state  int // records that are no delta: 0 before the first, 1 then, 2 after the final, 3 after [DONE]
}

func (c *checker) feed(piece []byte) error {
	c.rest = append(c.rest, piece...)
	now := monotonic()
	used := 0
	for {
		size := bytes.Index(c.rest[used:], []byte("\n\n")) + 2
		if size < 2 {
			break
		}
		if err := c.take(c.rest[used:used+size], now); err != nil {
			return err
		}
		used += size
	}
	c.rest = append(c.rest[:0], c.rest[used:]...)
	return nil
}

func (c *checker) take(record []byte, now int64) error {
	if c.state == 1 {
		if m, ok := readDelta(record); ok {
			return c.note(m, now)
		}
	}
	if c.state > 2 || string(record) != [...]string{firstRecord, finalRecord, doneRecord}[c.state] {
		return fmt.Errorf("record after %d deltas is not what was sent: %.60q", c.deltas, record)
	}
	c.state++
	c.opened()
	return nil
}

func (c *checker) note(m mark, now int64) error {
	if int(m.sequence) != c.deltas {
		return fmt.Errorf("record %d came where %d was due", m.sequence, c.deltas)
	}
	c.deltas++
	c.records.Add(1)
	if c.inWindow.Load() {
		c.delayUs.add((now - m.sent) / 1000)
		c.lateUs.add(int64(m.lateUs))
	}
	return nil
}

func (c *checker) end(count int) error {
	if c.state != 3 || c.deltas != count || len(c.rest) != 0 {
		return fmt.Errorf("stream ended after %d of %d deltas", c.deltas, count)
	}
	return nil
}

func once(action func()) func() {
	var guard sync.Once
	return func() { guard.Do(action) }
}
