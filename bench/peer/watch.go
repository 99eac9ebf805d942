package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// watch reads dmap's debug stream as fast as it comes, as `dmap tail` does, and
// asks for the metrics now and then, as Prometheus does.
type watch struct {
	door
	scrapeEvery    time.Duration
	leaving        atomic.Bool
	events, missed atomic.Int64
	scrapes        atomic.Int64
	faults         faults
}

// runWatch watches from when the proxy is up until stdin is closed, then
// reports what it saw.
func runWatch(arguments []string) error {
	flags := flag.NewFlagSet("watch", flag.ExitOnError)
	w := &watch{}
	w.door.flags(flags)
	flags.DurationVar(&w.scrapeEvery, "scrape", 0, "time between two readings of /metrics; 0: none")
	flags.Parse(arguments)
	stream, err := w.get("/debug/stream")
	if err != nil {
		w.faults.add(err)
	} else {
		go w.read(stream)
	}
	if err == nil && w.scrapeEvery > 0 {
		go w.scrape()
	}
	io.Copy(io.Discard, os.Stdin)
	w.leaving.Store(true)
	return report(map[string]any{"events": w.events.Load(), "missed": w.missed.Load(),
		"scrapes": w.scrapes.Load(), "faults": w.faults.count, "reasons": w.faults.first})
}

// get asks until the proxy listens, for 20 s.
func (w *watch) get(path string) (*http.Response, error) {
	request, err := http.NewRequest("GET", "http://"+w.address+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+w.key)
	until := time.Now().Add(20 * time.Second)
	for {
		response, err := http.DefaultClient.Do(request)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s was answered by %s", path, response.Status)
		}
		var refused *net.OpError
		if err == nil || !errors.As(err, &refused) || time.Now().After(until) {
			return response, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *watch) read(stream *http.Response) {
	lines := bufio.NewScanner(stream.Body)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	missed := false
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "event":
			missed = value == "debug.missed"
		case name == "data" && missed:
			w.missed.Add(missedIn(value))
		case name == "data":
			w.events.Add(1)
		}
	}
	if !w.leaving.Load() {
		w.faults.add(fmt.Errorf("the debug stream ended: %v", lines.Err()))
	}
}

// missedIn reads how many events the proxy says that it left out.
func missedIn(data string) (count int64) {
	_, rest, _ := strings.Cut(data, `"missed":`)
	fmt.Sscanf(rest, "%d", &count)
	return count
}

func (w *watch) scrape() {
	for ; ; time.Sleep(w.scrapeEvery) {
		response, err := w.get("/metrics")
		if err != nil {
			w.faults.add(err)
			continue
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		w.scrapes.Add(1)
	}
}
