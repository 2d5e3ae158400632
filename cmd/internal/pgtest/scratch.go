package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// memory is the mount point of Linux's file system in memory.
const memory = "/dev/shm"

// roomy is the number of bytes that must be available, both in memory and in its file system, for
// servers to keep their files there. Tests write some hundreds of megabytes at a time.
const roomy = 8 << 30

// scratch returns the directory for servers' files, empty for the default one. Creating a database
// creates some hundreds of files, which takes a quarter of the time in memory.
var scratch = sync.OnceValue(func() string {
	sweep(os.TempDir())
	sweep(memory)
	const tmpfs = 0x01021994
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memory, &fs); err != nil || int64(fs.Type) != tmpfs ||
		int64(fs.Bavail)*int64(fs.Bsize) < roomy || available() < roomy {
		return ""
	}
	return memory
})

// available returns how many bytes of memory are free or can be freed.
func available() (n int64) {
	info, _ := os.ReadFile("/proc/meminfo")
	if _, rest, ok := strings.Cut(string(info), "MemAvailable:"); ok {
		_, _ = fmt.Sscan(rest, &n)
	}
	return n << 10
}

// sweep removes the files of killed tests.
func sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "pgsluice-test-*-*"))
	for _, path := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), "pgsluice-test-"), "-")
		if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			_ = os.RemoveAll(path)
		}
	}
}
