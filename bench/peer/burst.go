package main

import (
	"flag"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	burstRecords = 3 // per stream, after the first record
	pause        = 300 * time.Millisecond
)

// burst is many streams that begin at the same moment, again and again, on
// connections that are open: how long each waits for its first byte.
type burst struct {
	door
	number, times int
	delayUs       *histogram
	faults        faults
	answered      int
}

func runBurst(arguments []string) error {
	flags := flag.NewFlagSet("burst", flag.ExitOnError)
	b := &burst{delayUs: newHistogram()}
	b.door.flags(flags)
	flags.IntVar(&b.number, "streams", 200, "streams that begin at once")
	flags.IntVar(&b.times, "times", 5, "how often they do")
	var watched processes
	watched.flags(flags)
	flags.Parse(arguments)
	return report(b.measure(watched))
}

func (b *burst) measure(watched processes) map[string]any {
	clients := b.dial()
	b.run(clients) // a warm-up
	b.delayUs, b.answered = newHistogram(), 0
	start := watched.now()
	for i := 0; i < b.times; i++ {
		time.Sleep(pause)
		b.run(clients)
	}
	figures := between(start, watched.now())
	figures["requests"] = b.answered
	figures["sent_requests"] = b.number * b.times
	figures["delay_us"] = b.delayUs.summary()
	figures["faults"] = b.faults.count
	figures["reasons"] = b.faults.first
	return figures
}

func (b *burst) dial() (clients []*client) {
	for i := 0; i < b.number; i++ {
		c, err := dial(b.address, time.Minute)
		if err != nil {
			b.faults.add(err)
			continue
		}
		clients = append(clients, c)
	}
	return clients
}

// run has all clients ask at once, and returns when all have their answers.
func (b *burst) run(clients []*client) {
	request := b.chatRequest(question{Stream: true, MaxTokens: burstRecords, Seed: 20_000})
	var busy sync.WaitGroup
	var counted sync.Mutex
	busy.Add(len(clients))
	start := monotonic()
	for _, c := range clients {
		go func(c *client) {
			defer busy.Done()
			if err := b.ask(c, request, start); err != nil {
				b.faults.add(err)
				return
			}
			counted.Lock()
			b.answered++
			counted.Unlock()
		}(c)
	}
	busy.Wait()
}

func (b *burst) ask(c *client, request []byte, start int64) error {
	response, err := c.post(request)
	if err != nil {
		return err
	}
	first := make([]byte, len(firstRecord))
	if _, err := io.ReadFull(response.Body, first); err != nil {
		return err
	}
	b.delayUs.add((monotonic() - start) / 1000)
	rest, err := io.ReadAll(response.Body)
	if err == nil && len(first)+len(rest) != streamBytes(burstRecords) {
		err = fmt.Errorf("a stream of %d bytes came", len(first)+len(rest))
	}
	return err
}
