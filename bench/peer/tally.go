package main

import (
	"flag"
	"os"
	"sync"
	"sync/atomic"
)

const longestUs = 500_000

// histogram counts whole microseconds; anything longer is counted as longestUs.
type histogram struct{ counts []atomic.Int64 }

func newHistogram() *histogram {
	return &histogram{make([]atomic.Int64, longestUs+1)}
}

func (h *histogram) add(us int64) {
	if us < 0 {
		us = 0
	}
	if us > longestUs {
		us = longestUs
	}
	h.counts[us].Add(1)
}

// quantile returns microseconds, or 0 when nothing was counted.
func (h *histogram) quantile(share float64) int64 {
	var total, seen int64
	for i := range h.counts {
		total += h.counts[i].Load()
	}
	for i := range h.counts {
		seen += h.counts[i].Load()
		if seen > 0 && float64(seen) >= share*float64(total) {
			return int64(i)
		}
	}
	return 0
}

func (h *histogram) summary() map[string]int64 {
	return map[string]int64{"p50": h.quantile(0.5), "p99": h.quantile(0.99), "max": h.quantile(1)}
}

// processes are those whose CPU time is read: the proxy's, and the generator's,
// which is the fake server and this one.
type processes struct {
	proxy, generator pids
	core             int // of the proxy
}

func (p *processes) flags(set *flag.FlagSet) {
	p.generator = pids{os.Getpid()}
	set.Var(&p.proxy, "proxy", "process ids of the proxy, with commas")
	set.Var(&p.generator, "upstream", "process id of the fake server")
	set.IntVar(&p.core, "core", 0, "core of the proxy")
}

// instant is all that is read at one end of a window, in one go.
type instant struct {
	at               int64
	proxy, generator cpuTime
	core             int64
}

func (p processes) now() instant {
	return instant{monotonic(), readCPU(p.proxy), readCPU(p.generator), readCore(p.core)}
}

// between are the figures common to all windows.
func between(start, end instant) map[string]any {
	proxy := end.proxy.since(start.proxy)
	return map[string]any{
		"window_ns":     end.at - start.at,
		"proxy_ns":      proxy.scheduledNs,
		"proxy_tick_ns": proxy.ticksNs,
		"core_ns":       end.core - start.core,
		"generator_ns":  end.generator.since(start.generator).scheduledNs,
	}
}

// faults keeps the first few reasons why a round is worth nothing.
type faults struct {
	sync.Mutex
	count int
	first []string
}

func (f *faults) add(err error) {
	f.Lock()
	defer f.Unlock()
	f.count++
	if len(f.first) < 3 {
		f.first = append(f.first, err.Error())
	}
}
