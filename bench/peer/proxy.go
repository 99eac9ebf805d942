package main

import (
	"flag"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// buffers lends the copy buffers, as anybody who runs ReverseProxy in earnest does.
type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte       { return *b.Pool.Get().(*[]byte) }
func (b *buffers) Put(buffer []byte) { b.Pool.Put(&buffer) }

// runProxy is Go's library proxy as one would set it up for streams: flush
// after each write, keep connections, leave encodings alone.
func runProxy(arguments []string) error {
	flags := flag.NewFlagSet("proxy", flag.ExitOnError)
	to := flags.String("to", "", "URL of the upstream")
	flags.Parse(arguments)
	target, err := url.Parse(*to)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	report(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port})
	return http.Serve(listener, newProxy(target))
}

func newProxy(target *url.URL) http.Handler {
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.BufferPool = &buffers{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
	proxy.Transport = &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConns:        2048,
		MaxIdleConnsPerHost: 2048,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	return proxy
}
