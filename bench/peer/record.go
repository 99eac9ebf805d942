package main

import (
	"bytes"
	"fmt"
	"strconv"
)

// A delta record is as llama-server writes it, one token each, all of one
// size. Its id carries what the bench needs and JSON readers do not mind: when
// it was sent (16 hex digits), its number in the stream (8), and by how many
// microseconds the fake server was late with it (8).
const (
	recordHead = `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" timber"}}],` +
		`"created":1790000000,"id":"chatcmpl-`
	recordTail = `","model":"bench","system_fingerprint":"b1000-bench","object":"chat.completion.chunk"}` + "\n\n"
	markSize   = 32
	recordSize = len(recordHead) + markSize + len(recordTail)

	firstRecord = `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],` +
		`"created":1790000000,"id":"chatcmpl-0","model":"bench","system_fingerprint":"b1000-bench",` +
		`"object":"chat.completion.chunk"}` + "\n\n"
	finalRecord = `data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],` +
		`"created":1790000000,"id":"chatcmpl-1","model":"bench","system_fingerprint":"b1000-bench",` +
		`"object":"chat.completion.chunk","timings":{"prompt_n":21,"prompt_ms":0.5,"predicted_n":6,"predicted_ms":0.7}}` + "\n\n"
	doneRecord = "data: [DONE]\n\n"
)

// mark is what a delta record's id says. Times are monotonic nanoseconds.
type mark struct {
	sent     int64
	sequence uint32
	lateUs   uint32
}

// streamBytes is the exact length of a whole stream of count delta records.
func streamBytes(count int) int {
	return len(firstRecord) + count*recordSize + len(finalRecord) + len(doneRecord)
}

// frame wraps a record as one HTTP chunk.
func frame(record string) []byte {
	return []byte(fmt.Sprintf("%x\r\n%s\r\n", len(record), record))
}

// newDelta returns a framed delta record and the part of it that holds the mark.
func newDelta() (framed, id []byte) {
	framed = frame(recordHead + string(make([]byte, markSize)) + recordTail)
	start := bytes.Index(framed, []byte(recordHead)) + len(recordHead)
	return framed, framed[start : start+markSize]
}

func (m mark) put(id []byte) {
	putHex(id[:16], uint64(m.sent))
	putHex(id[16:24], uint64(m.sequence))
	putHex(id[24:32], uint64(m.lateUs))
}

func putHex(digits []byte, value uint64) {
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = "0123456789abcdef"[value&15]
		value >>= 4
	}
}

// readDelta compares every byte of a record and returns its mark; ok is false
// for anything that the fake server did not write.
func readDelta(record []byte) (m mark, ok bool) {
	if len(record) != recordSize || string(record[:len(recordHead)]) != recordHead ||
		string(record[len(recordHead)+markSize:]) != recordTail {
		return m, false
	}
	id := record[len(recordHead) : len(recordHead)+markSize]
	sent, err1 := strconv.ParseUint(string(id[:16]), 16, 63)
	sequence, err2 := strconv.ParseUint(string(id[16:24]), 16, 32)
	late, err3 := strconv.ParseUint(string(id[24:]), 16, 32)
	return mark{int64(sent), uint32(sequence), uint32(late)}, err1 == nil && err2 == nil && err3 == nil
}
