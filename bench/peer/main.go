// Dmapbench is the other end of every measurement: a fake model server, the
// clients that load a proxy, and a reverse proxy of Go's library to compare
// with. It judges nothing but fidelity; the figures go to the driver as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

var commands = map[string]func(arguments []string) error{
	"upstream": runUpstream,
	"proxy":    runProxy,
	"stream":   runStream,
	"request":  runRequest,
	"burst":    runBurst,
	"idle":     runIdle,
	"watch":    runWatch,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fail(fmt.Errorf("usage: dmapbench upstream|proxy|stream|request|burst|idle|watch [flags]"))
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "dmapbench:", err)
	os.Exit(1)
}

// report prints one JSON line, which is all that the driver reads of us.
func report(value any) error {
	return json.NewEncoder(os.Stdout).Encode(value)
}
