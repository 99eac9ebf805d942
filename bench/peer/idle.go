package main

import (
	"flag"
	"io"
	"os"
	"sync"
	"time"
)

// runIdle holds streams that sent their head and first record and then went
// silent. It reports once all are open, and lets go when its stdin is closed.
func runIdle(arguments []string) error {
	flags := flag.NewFlagSet("idle", flag.ExitOnError)
	var proxy door
	proxy.flags(flags)
	number := flags.Int("streams", 1000, "streams to hold")
	flags.Parse(arguments)
	var failed faults
	clients := holdStreams(proxy, *number, &failed)
	report(map[string]any{"streams": len(clients), "faults": failed.count, "reasons": failed.first})
	io.Copy(io.Discard, os.Stdin)
	for _, c := range clients {
		c.Close()
	}
	return nil
}

func holdStreams(proxy door, number int, failed *faults) (clients []*client) {
	var lock sync.Mutex
	var busy sync.WaitGroup
	doors := make(chan struct{}, opening)
	for i := 0; i < number; i++ {
		busy.Add(1)
		doors <- struct{}{}
		go func() {
			defer func() { <-doors; busy.Done() }()
			c, err := holdStream(proxy)
			lock.Lock()
			defer lock.Unlock()
			if err != nil {
				failed.add(err)
				return
			}
			clients = append(clients, c)
		}()
	}
	busy.Wait()
	return clients
}

func holdStream(proxy door) (*client, error) {
	c, err := dial(proxy.address, 5*time.Minute)
	if err != nil {
		return nil, err
	}
	response, err := c.post(proxy.chatRequest(question{Stream: true, MaxTokens: 1}))
	if err != nil {
		c.Close()
		return nil, err
	}
	_, err = io.ReadFull(response.Body, make([]byte, len(firstRecord)))
	return c, err
}
