package main

import (
	"bufio"
	"flag"
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

// door is where the requests of a measurement go, and the key they show there.
type door struct{ address, key string }

func (d *door) flags(set *flag.FlagSet) {
	set.StringVar(&d.address, "address", "", "host:port of the proxy")
	set.StringVar(&d.key, "key", "", "what the proxy asks its clients for; without it none is sent")
}

// authorization is the whole header, or nothing.
func (d door) authorization() string {
	if d.key == "" {
		return ""
	}
	return "Authorization: Bearer " + d.key + "\r\n"
}

// chatRequest is a whole request of about 1 KB, written by a chat app. Its last
// members are what a proxy that edits requests is told to change or take out.
func (d door) chatRequest(q question) []byte {
	body := fmt.Sprintf(`{"model":"bench","messages":[{"role":"user","content":"%s"}],`+
		`"max_tokens":%d,"seed":%d,"stream":%t,"in_step":%t,"temperature":1,"logit_bias":{},"user":"bench"}`,
		strings.Repeat("Tell me about the old mill by the river. ", 20), q.MaxTokens, q.Seed, q.Stream, q.InStep)
	return []byte(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\n"+
		"User-Agent: dmapbench\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		d.address, d.authorization(), len(body), body))
}
