package main

import (
	"flag"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const warmUps = 20 // requests per client before the window

// requests is one run of the closed loop: each client asks again as soon as it
// has its answer, until the number is used up.
type requests struct {
	door
	clients, number int
	left            atomic.Int64
	right           atomic.Int64
	delayUs         *histogram
	faults          faults
}

func runRequest(arguments []string) error {
	flags := flag.NewFlagSet("request", flag.ExitOnError)
	r := &requests{delayUs: newHistogram()}
	r.door.flags(flags)
	flags.IntVar(&r.clients, "clients", 16, "concurrent clients")
	flags.IntVar(&r.number, "requests", 10000, "requests in all")
	var watched processes
	watched.flags(flags)
	flags.Parse(arguments)
	return report(r.measure(watched))
}

func (r *requests) measure(watched processes) map[string]any {
	clients := r.dial()
	r.run(clients, r.clients*warmUps)
	r.delayUs = newHistogram()
	r.right.Store(0)
	start := watched.now()
	r.run(clients, r.number)
	figures := between(start, watched.now())
	figures["requests"] = r.right.Load()
	figures["sent_requests"] = r.number
	figures["delay_us"] = r.delayUs.summary()
	figures["faults"] = r.faults.count
	figures["reasons"] = r.faults.first
	return figures
}

func (r *requests) dial() (clients []*client) {
	for i := 0; i < r.clients; i++ {
		c, err := dial(r.address, time.Minute)
		if err != nil {
			r.faults.add(err)
			continue
		}
		clients = append(clients, c)
	}
	return clients
}

// run returns when number requests are answered, or all clients have failed.
func (r *requests) run(clients []*client, number int) {
	var busy sync.WaitGroup
	r.left.Store(int64(number))
	busy.Add(len(clients))
	for _, c := range clients {
		go func(c *client) {
			defer busy.Done()
			if err := r.loop(c); err != nil {
				r.faults.add(err)
			}
		}(c)
	}
	busy.Wait()
}

func (r *requests) loop(c *client) error {
	request := r.chatRequest(question{MaxTokens: 180, Seed: 1})
	for r.left.Add(-1) >= 0 {
		start := monotonic()
		if err := r.ask(c, request); err != nil {
			return err
		}
		r.delayUs.add((monotonic() - start) / 1000)
		r.right.Add(1)
	}
	return nil
}

func (r *requests) ask(c *client, request []byte) error {
	response, err := c.post(request)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	if err == nil && string(body) != completion {
		err = fmt.Errorf("answer of %d bytes is not what was sent", len(body))
	}
	return err
}
