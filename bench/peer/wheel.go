package main

import (
	"container/heap"
	"math/rand"
	"net"
	"runtime"
	"syscall"
)

// The wheel writes the records of all streams from one thread that sleeps in
// the kernel until the next one is due. Go's own timers would round each wait
// up to a millisecond, and 200 streams would arrive in bursts of 20 chunks,
// which flatters every proxy: it reads many sockets per wake-up.

const (
	jitter      = 0.35    // of the interval, each way, drawn anew for each tick
	admissionNs = 300_000 // the longest a new stream waits while others sleep
)

// ticked is a stream on the wheel. Its n-th record is due at begin + n
// intervals, moved by the jitter, so the rate holds however late a tick was.
// Streams in step begin at multiples of their interval and are not moved.
type ticked struct {
	connection net.Conn
	interval   int64
	begin, due int64
	inStep     bool
	sequence   int
	count      int
	framed, id []byte
	done       chan error
}

func newTicked(connection net.Conn, q question) *ticked {
	framed, id := newDelta()
	return &ticked{connection: connection, interval: q.Seed * 1000, inStep: q.InStep, count: q.MaxTokens,
		framed: framed, id: id, done: make(chan error, 1)}
}

type byDue []*ticked

func (b byDue) Len() int           { return len(b) }
func (b byDue) Less(i, j int) bool { return b[i].due < b[j].due }
func (b byDue) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b *byDue) Push(s any)        { *b = append(*b, s.(*ticked)) }
func (b *byDue) Pop() any {
	last := len(*b) - 1
	s := (*b)[last]
	*b = (*b)[:last]
	return s
}

type wheel struct {
	admit   chan *ticked
	streams byDue
	random  *rand.Rand
}

func newWheel() *wheel {
	return &wheel{admit: make(chan *ticked, 1024), random: rand.New(rand.NewSource(monotonic()))}
}

func (w *wheel) run() {
	runtime.LockOSThread()
	setTimerSlack()
	for {
		w.takeAdmitted()
		now := monotonic()
		if wait := w.streams[0].due - now; wait > 0 {
			sleep(wait)
			continue
		}
		w.tick(w.streams[0], now)
	}
}

// takeAdmitted waits only when the wheel is empty.
func (w *wheel) takeAdmitted() {
	for {
		if len(w.streams) == 0 {
			w.start(<-w.admit)
		}
		select {
		case s := <-w.admit:
			w.start(s)
		default:
			return
		}
	}
}

func (w *wheel) start(s *ticked) {
	s.begin = monotonic()
	if s.inStep {
		s.begin -= s.begin % s.interval
	} else {
		s.begin += w.random.Int63n(s.interval)
	}
	w.plan(s)
	heap.Push(&w.streams, s)
}

func (w *wheel) plan(s *ticked) {
	moved := 0.0
	if !s.inStep {
		moved = (w.random.Float64()*2 - 1) * jitter * float64(s.interval)
	}
	s.due = s.begin + int64(s.sequence+1)*s.interval + int64(moved)
}

func (w *wheel) tick(s *ticked, now int64) {
	err := s.write(now)
	if err != nil || s.sequence > s.count {
		heap.Pop(&w.streams)
		s.done <- err
		return
	}
	w.plan(s)
	heap.Fix(&w.streams, 0)
}

// write sends the record that is due; after the last one, the end of the stream.
func (s *ticked) write(now int64) error {
	bytes := s.framed
	if s.sequence < s.count {
		mark{sent: now, sequence: uint32(s.sequence), lateUs: uint32((now - s.due) / 1000)}.put(s.id)
	} else {
		bytes = append(append(frame(finalRecord), frame(doneRecord)...), "0\r\n\r\n"...)
	}
	s.sequence++
	_, err := s.connection.Write(bytes)
	return err
}

func sleep(wait int64) {
	if wait > admissionNs {
		wait = admissionNs
	}
	duration := syscall.NsecToTimespec(wait)
	syscall.Nanosleep(&duration, nil)
}
