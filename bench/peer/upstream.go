package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	streamHead = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n" +
		"X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n" +
		"Keep-Alive: timeout=5, max=100\r\n\r\n"
	modelList = `{"object":"list","data":[{"id":"bench","object":"model"}]}`
)

// completion is the non-streamed answer, about 1 KB of JSON.
var completion = `{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"` +
	strings.Repeat("Rain fell on the timber yard. ", 25) + `"}}],"created":1790000000,"model":"bench",` +
	`"system_fingerprint":"b1000-bench","object":"chat.completion","usage":{"completion_tokens":180,` +
	`"prompt_tokens":210,"total_tokens":390},"id":"chatcmpl-0"}`

// lastChat is the body of the latest chat request: what a proxy made of it.
var lastChat atomic.Value

// question is what the fake server reads of a chat request. The knobs of a
// stream travel in fields that every proxy passes on: max_tokens is the number
// of delta records and seed the microseconds between two of them, 0 for none
// ever (an idle stream). Streams in step have their records written in one go,
// as a server does that batches its sequences.
type question struct {
	Stream    bool  `json:"stream"`
	MaxTokens int   `json:"max_tokens"`
	Seed      int64 `json:"seed"`
	InStep    bool  `json:"in_step"`
}

// runUpstream serves the fake model server until it is killed.
func runUpstream(arguments []string) error {
	flags := flag.NewFlagSet("upstream", flag.ExitOnError)
	listen := flags.String("listen", "127.0.0.1:0", "address to listen on")
	flags.Parse(arguments)
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	w := newWheel()
	go w.run()
	report(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port})
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go serve(connection, w)
	}
}

// serve answers the requests of one kept-alive connection in turn. It is not
// net/http's server because the wheel writes to the connection itself, and
// hijacking would end the keep-alive.
func serve(connection net.Conn, w *wheel) {
	defer connection.Close()
	reader := bufio.NewReaderSize(connection, 4096)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		body, err := io.ReadAll(request.Body)
		if err != nil || answer(connection, w, request.URL.Path, body) != nil {
			return
		}
	}
}

func answer(connection net.Conn, w *wheel, path string, body []byte) error {
	switch path {
	case "/v1/models":
		return writeJSON(connection, "200 OK", modelList)
	case "/last":
		last, _ := lastChat.Load().([]byte)
		return writeJSON(connection, "200 OK", string(last))
	case "/v1/chat/completions":
		lastChat.Store(body)
		var q question
		if err := json.Unmarshal(body, &q); err != nil {
			return writeJSON(connection, "400 Bad Request", `{"error":{"message":"not JSON"}}`)
		}
		if q.Stream {
			return writeStream(connection, w, q)
		}
		return writeJSON(connection, "200 OK", completion)
	}
	return writeJSON(connection, "404 Not Found", `{"error":{"message":"File Not Found"}}`)
}

func writeJSON(connection net.Conn, status, body string) error {
	_, err := fmt.Fprintf(connection, "HTTP/1.1 %s\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"+
		"Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"+
		"Keep-Alive: timeout=5, max=100\r\n\r\n%s", status, len(body), body)
	return err
}

// writeStream returns when the last byte is written, or for an idle stream
// when the peer has gone.
func writeStream(connection net.Conn, w *wheel, q question) error {
	if _, err := connection.Write(append([]byte(streamHead), frame(firstRecord)...)); err != nil {
		return err
	}
	if q.Seed <= 0 {
		_, err := connection.Read(make([]byte, 1))
		return fmt.Errorf("idle stream left: %v", err)
	}
	// No proxy may stop the wheel, which serves every stream, for longer.
	connection.SetWriteDeadline(time.Now().Add(2 * time.Minute))
	s := newTicked(connection, q)
	w.admit <- s
	err := <-s.done
	connection.SetWriteDeadline(time.Time{})
	return err
}
