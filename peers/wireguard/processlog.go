package wireguard

import (
	"log"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/device"
)

// maxLog is the size in bytes at which a log begins anew.
const maxLog = 1 << 20

// logFile is the process's log. Panics go to the same file, so the process does not
// rename it: when it is large it is emptied.
type logFile struct {
	mu   sync.Mutex // guards size
	file *os.File   // opened for appending
	size int64
}

// Write appends to the file and empties it first when it is large.
func (l *logFile) Write(p []byte) (int, error) {
	if l.grow(int64(len(p))) {
		_ = l.file.Truncate(0) // fails on a terminal or a pipe, where nothing has to be emptied
	}
	return l.file.Write(p)
}

// grow counts and says whether the file is to be emptied.
func (l *logFile) grow(n int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size += n; l.size <= maxLog {
		return false
	}
	l.size = n
	return true
}

// newProcessLogger logs wireguard-go's errors to file.
func newProcessLogger(file *os.File) *device.Logger {
	out := &logFile{file: file}
	if st, err := file.Stat(); err == nil {
		out.size = st.Size()
	}
	logger := log.New(out, "", log.LstdFlags|log.LUTC)
	return &device.Logger{Verbosef: device.DiscardLogf, Errorf: logger.Printf}
}
