package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// client is one kept-alive connection to the proxy under test. It is thinner
// than net/http's Transport, so that the generator leaves its core to the
// fake server.
type client struct {
	net.Conn
	reader *bufio.Reader
}

func dial(address string, limit time.Duration) (*client, error) {
	connection, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	connection.SetDeadline(time.Now().Add(limit))
	return &client{connection, bufio.NewReaderSize(connection, 4096)}, nil
}

// post sends a request as it stands and reads the head of the answer.
func (c *client) post(request []byte) (*http.Response, error) {
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("answer was %s", response.Status)
	}
	return response, err
}

// chatRequest is a whole request of about 1 KB, written by a chat app.
func chatRequest(address string, q question) []byte {
	body := fmt.Sprintf(`{"model":"bench","messages":[{"role":"user","content":"%s"}],`+
		`"max_tokens":%d,"seed":%d,"stream":%t}`,
		strings.Repeat("Tell me about the old mill by the river. ", 20), q.MaxTokens, q.Seed, q.Stream)
	return []byte(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\n"+
		"User-Agent: dmapbench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		address, len(body), body))
}
