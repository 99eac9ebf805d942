// A model server of Go's standard library that keeps what it read of each request: encoding/json by a struct,
// which takes names in any letter case, and by a map, which does not; mime/multipart for forms.
// GET /seen returns it all, and forgets it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"sort"
	"strings"
	"sync"
)

type view struct {
	Model       any      `json:"model"`
	Stream      bool     `json:"stream"`
	Guarded     []string `json:"guarded"`
	Temperature any      `json:"temperature"`
	LogitBias   bool     `json:"logit_bias"`
}

type entry struct {
	ID      string            `json:"id"`
	Path    string            `json:"path"`
	Views   map[string]any    `json:"views"`
	Headers map[string]string `json:"headers"`
}

// call is a request as Ollama and its likes declare it.
type call struct {
	Model         string         `json:"model"`
	Stream        any            `json:"stream"`
	Temperature   any            `json:"temperature"`
	LogitBias     any            `json:"logit_bias"`
	KeepAlive     any            `json:"keep_alive"`
	DraftModel    any            `json:"draft_model"`
	DraftCamel    any            `json:"draftModel"`
	ContextLength any            `json:"context_length"`
	ContextCamel  any            `json:"contextLength"`
	Integrations  any            `json:"integrations"`
	Servers       any            `json:"mcp_servers"`
	Options       map[string]any `json:"options"`
	Tools         []tool         `json:"tools"`
	Messages      parts          `json:"messages"`
	Input         parts          `json:"input"`
	System        parts          `json:"system"`
	Documents     parts          `json:"documents"`
	Query         parts          `json:"query"`
}

type tool struct {
	ServerURL any `json:"server_url"`
}

type part struct {
	Content  parts `json:"content"`
	Output   parts `json:"output"`
	Source   parts `json:"source"`
	ImageURL any   `json:"image_url"`
	VideoURL any   `json:"video_url"`
	AudioURL any   `json:"audio_url"`
	FileURL  any   `json:"file_url"`
	URL      any   `json:"url"`
	Image    any   `json:"image"`
}

// parts takes a list of parts, one part, or anything else, which has no links.
type parts []part

func (p *parts) UnmarshalJSON(text []byte) error {
	var many []part
	var one part
	if json.Unmarshal(text, &many) == nil {
		*p = append(*p, many...)
	} else if json.Unmarshal(text, &one) == nil {
		*p = append(*p, one)
	}
	return nil
}

var link = regexp.MustCompile(`(?i)^\s*(https?|file|ftp):`)

func (p parts) fetches() bool {
	for _, each := range p {
		for _, found := range []any{each.ImageURL, each.VideoURL, each.AudioURL, each.FileURL, each.URL, each.Image} {
			if inner, ok := found.(map[string]any); ok {
				found = inner["url"]
			}
			if text, ok := found.(string); ok && link.MatchString(text) {
				return true
			}
		}
		if each.Content.fetches() || each.Output.fetches() || each.Source.fetches() {
			return true
		}
	}
	return false
}

func asks(value any) bool {
	switch value := value.(type) {
	case nil:
		return false
	case bool:
		return value
	case string:
		return value != ""
	case []any:
		return len(value) > 0
	case map[string]any:
		return len(value) > 0
	}
	return true
}

func (c *call) guarded() []string {
	found := map[string]bool{
		"keep_alive":     asks(c.KeepAlive),
		"draft_model":    asks(c.DraftModel) || asks(c.DraftCamel),
		"context_length": asks(c.ContextLength) || asks(c.ContextCamel),
		"integrations":   asks(c.Integrations) || asks(c.Servers),
		"image_url": c.Messages.fetches() || c.Input.fetches() || c.System.fetches() ||
			c.Documents.fetches() || c.Query.fetches(),
	}
	for _, name := range []string{"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"} {
		if _, ok := c.Options[name]; ok {
			found["options"] = true
		}
	}
	for _, each := range c.Tools {
		if each.ServerURL != nil {
			found["integrations"] = true
		}
	}
	names := []string{}
	for name, is := range found {
		if is {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

func (c *call) view() view {
	return view{c.Model, asks(c.Stream), c.guarded(), c.Temperature, c.LogitBias != nil}
}

func byStruct(body []byte) any {
	var found call
	if err := json.Unmarshal(body, &found); err != nil {
		return "unreadable: " + err.Error()
	}
	return found.view()
}

// byDecoder reads the first value of the body only, as handlers with NewDecoder(r.Body).Decode do.
func byDecoder(body []byte) any {
	var found call
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&found); err != nil {
		return "unreadable: " + err.Error()
	}
	return found.view()
}

func byForm(r *http.Request, body []byte) any {
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err := r.ParseMultipartForm(1 << 26); err != nil {
		return "unreadable: " + err.Error()
	}
	var model any = r.Form["model"] // with the query's, as FormValue reads it
	if len(r.Form["model"]) == 1 {
		model = r.Form["model"][0]
	} else if len(r.Form["model"]) == 0 {
		model = nil
	}
	streams := strings.ToLower(r.FormValue("stream"))
	return view{Model: model, Stream: streams == "true" || streams == "1", Guarded: []string{}}
}

type server struct {
	sync.Mutex
	seen []entry
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == "GET" && r.URL.Path == "/v1/models":
		fmt.Fprint(w, `{"object":"list","data":[{"id":"small-go"},{"id":"held-go"},{"id":"big-go"}]}`)
	case r.Method == "GET" && r.URL.Path == "/seen":
		s.Lock()
		defer s.Unlock()
		json.NewEncoder(w).Encode(append([]entry{}, s.seen...))
		s.seen = nil
	default:
		s.read(w, r)
	}
}

func (s *server) read(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	id, headers := r.Header.Get("X-Request-Id"), map[string]string{}
	for name := range r.Header {
		headers[strings.ToLower(name)] = strings.Join(r.Header[name], " | ")
	}
	views := map[string]any{}
	if strings.HasPrefix(strings.ToLower(r.Header.Get("Content-Type")), "multipart/") {
		views["multipart"] = byForm(r, body)
	} else {
		views["struct"], views["decoder"] = byStruct(body), byDecoder(body)
	}
	s.Lock()
	s.seen = append(s.seen, entry{id, r.RequestURI, views, headers})
	s.Unlock()
	json.NewEncoder(w).Encode(map[string]any{"object": "chat.completion", "id": id, "choices": []any{}})
}

func main() {
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[1], &server{}))
}
