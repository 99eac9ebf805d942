package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const (
	clockMonotonic  = 1
	setTimerSlackOp = 29
	tickNs          = 10_000_000 // USER_HZ is 100 on every Linux port in use
)

// monotonic reads a clock that all processes of the machine share; Go's own
// monotonic reading cannot be sent to another process.
func monotonic() int64 {
	var now syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

// setTimerSlack ends the kernel's habit of merging timers 50 us apart, for the
// calling thread.
func setTimerSlack() {
	syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlackOp, 1, 0)
}

// cpuTime is the user and system time that processes have used, all threads.
// ScheduledNs is the scheduler's own account; ticksNs counts 10 ms ticks and
// serves as a check on it.
type cpuTime struct{ scheduledNs, ticksNs int64 }

func (c cpuTime) since(earlier cpuTime) cpuTime {
	return cpuTime{c.scheduledNs - earlier.scheduledNs, c.ticksNs - earlier.ticksNs}
}

func readCPU(watched pids) (total cpuTime) {
	for _, pid := range watched {
		total.scheduledNs += readScheduled(pid)
		total.ticksNs += readTicks(pid)
	}
	return total
}

func readScheduled(pid int) (sum int64) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range files {
		if fields := readFields(file); len(fields) > 0 {
			sum += number(fields[0])
		}
	}
	return sum
}

func readTicks(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// The second field is the program's name and may hold spaces: see proc(5).
	fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	if len(fields) < 13 {
		return 0
	}
	return (number(fields[11]) + number(fields[12])) * tickNs
}

// readCore is the time for which a core was not idle, counted in ticks; time
// that the hypervisor took away is in it.
func readCore(core int) (busyNs int64) {
	text, _ := os.ReadFile("/proc/stat")
	for _, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 8 && fields[0] == fmt.Sprintf("cpu%d", core) {
			for _, column := range []int{1, 2, 3, 6, 7, 8} { // all but idle and iowait: see proc(5)
				busyNs += number(fields[column]) * tickNs
			}
		}
	}
	return busyNs
}

func readFields(file string) []string {
	text, _ := os.ReadFile(file)
	return strings.Fields(string(text))
}

func number(text string) int64 {
	value, _ := strconv.ParseInt(text, 10, 64)
	return value
}

// pids is a flag that adds process ids to those it has.
type pids []int

func (p *pids) String() string { return fmt.Sprint(*p) }

func (p *pids) Set(text string) error {
	for _, field := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return err
		}
		*p = append(*p, pid)
	}
	return nil
}
