// Package outfile stores a stream of changes in files. It finds where the stream continues after a
// crash, starts a new file when one is full, and syncs. It uses no server, and its caller decides
// when to sync and when to rotate.
package outfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/huge"
	"github.com/pgsluice/pgsluice/format"
)

// A File is one file, or a sequence of files of which the newest is written to. Write, Sync and
// Close must be called from one goroutine.
type File struct {
	path   string
	rotate int64

	f      *os.File            // nil: Begin creates one
	size   int64               // before Begin: up to the last boundary
	begun  bool                // f can be written to
	header *format.Header      // of the newest stream in the file; nil: none
	lsn    format.LSN          // end of the stream when the file was opened
	last   format.StreamCommit // newest complete transaction at that time
	torn   int64               // bytes after the last boundary
}

// Open opens path, or, if rotate is not 0, the newest of the files path.LSN; Full then reports when
// a file has rotate bytes. The files need not exist. No other process can open the file until
// Close. Open writes nothing: Begin does.
func Open(path string, rotate int64) (*File, error) {
	f := &File{path: path, rotate: rotate}
	names := []string{path}
	if rotate > 0 {
		names = f.names()
	}
	for i := len(names) - 1; i >= 0 && f.f == nil; i-- {
		err := f.open(names[i], 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = f.scan()
		}
		if err == nil && rotate > 0 && f.header == nil {
			// A process created the file and was killed before it wrote a header.
			err = os.Remove(names[i])
			_ = f.f.Close()
			f.f = nil
		}
		if err != nil {
			return nil, openError(err)
		}
	}
	return f, nil
}

func openError(err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	return fault.New(fault.Usage, "could not open the output: %w", err)
}

// names returns the existing files, oldest first.
func (f *File) names() []string {
	names, _ := filepath.Glob(escape(f.path) + "." + "[0-9A-F]*")
	names = slices.DeleteFunc(names, func(n string) bool {
		var lsn uint64
		_, err := fmt.Sscanf(n[len(f.path)+1:], "%X", &lsn)
		return err != nil || n != f.name(format.LSN(lsn))
	})
	slices.Sort(names)
	return names
}

// escape returns a glob pattern that matches only s.
func escape(s string) string {
	var b []byte
	for i := range len(s) {
		switch s[i] {
		case '*', '?', '[', '\\':
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return string(b)
}

// name returns the name of the file that starts at lsn. All names have the same length, so that
// they sort in the order of the stream.
func (f *File) name(lsn format.LSN) string {
	if f.rotate == 0 {
		return f.path
	}
	return fmt.Sprintf("%s.%016X", f.path, uint64(lsn))
}

func (f *File) open(name string, create int) error {
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		return fault.New(fault.Usage, "%q is not a regular file", name).WithHint("Redirect standard output to it instead of using --output.")
	}
	file, err := os.OpenFile(name, os.O_RDWR|create, 0o666)
	if err != nil {
		return err
	}
	if err := lock(file); err != nil {
		_ = file.Close()
		return fault.New(fault.TryAgain, "file %q is in use by another process: %w", name, err)
	}
	f.f = file
	return nil
}

// scan finds the last transaction boundary in the file. The bytes after it are left by a crash: the
// beginning of a transaction, or, if the machine went down, whatever had reached the disk. If
// acknowledged changes are missing, the receiver notices that the slot is past the file's position.
func (f *File) scan() error {
	r := format.NewReader(f.f)
	r.LongRecords(huge.Reserve, huge.Free)
	r.DropMessages()
	var xid uint32 // of the open transaction
	for {
		rec, err := r.Next()
		if err != nil {
			st, e := f.f.Stat()
			if e != nil {
				return e
			}
			if errors.Is(err, format.ErrNotStream) && !begins(f.f) {
				return fault.New(fault.Usage, "file %q is %w", f.f.Name(), err).WithHint("Choose another name for --output.")
			}
			var version *format.VersionError
			var unknown *format.UnknownKindError
			if errors.As(err, &version) || errors.As(err, &unknown) {
				return fault.New(fault.Data, "file %q: %w", f.f.Name(), err).
					WithHint("Use a newer pgdecode, or choose another name for --output.")
			}
			f.torn = st.Size() - f.size
			return nil
		}
		switch x := rec.(type) {
		case *format.Header:
			if x.StreamKind != format.Changes {
				return fault.New(fault.Usage, "file %q has a stream of kind %q", f.f.Name(), x.StreamKind).
					WithHint("Choose another name for --output.")
			}
			f.header = x
			f.lsn = max(f.lsn, x.StartLSN)
		case *format.Begin:
			xid = x.XID
			continue
		case *format.Commit:
			f.last = format.StreamCommit{XID: xid, CommitLSN: x.CommitLSN, EndLSN: x.EndLSN, Time: x.Time}
			f.lsn = max(f.lsn, r.Position())
		case *format.StreamCommit:
			f.last = *x
			f.lsn = max(f.lsn, r.Position())
		case *format.Progress:
			f.lsn = max(f.lsn, r.Position())
		case *format.End:
			f.lsn = max(f.lsn, x.LSN)
		default:
			continue
		}
		f.size = r.N()
	}
}

// begins reports whether a file that is not a stream may be the remains of one after a crash: its
// first bytes, or zeros if the length reached the disk and the data did not. No text file begins
// with these bytes.
func begins(f *os.File) bool {
	b := make([]byte, 1)
	_, err := f.ReadAt(b, 0)
	return err == nil && (b[0] == 0 || b[0] == 0x93)
}

// Position returns the LSN up to which the files are complete, or 0 if they are empty.
func (f *File) Position() format.LSN { return f.lsn }

// Last returns the newest complete transaction in the newest file, and the source's timeline in its
// header; both are zero if there are none.
func (f *File) Last() (last format.StreamCommit, timeline uint64) {
	if f.header != nil {
		timeline = f.header.Timeline
	}
	return f.last, timeline
}

// Torn returns how many bytes the first Begin truncates.
func (f *File) Torn() int64 { return f.torn }

// Begin prepares the file for a stream with this header, which the caller writes next. It truncates
// an incomplete end of the file, or creates a new file. It does nothing if the file is ready
// already: then the header follows a stream that broke off.
func (f *File) Begin(h *format.Header) error {
	if old := f.header; old != nil && (old.SystemID != h.SystemID || old.Database != h.Database || old.Slot != h.Slot) {
		return fault.New(fault.Config,
			"file %q has the stream of slot %q of database %q, which is not slot %q of database %q on this server",
			f.f.Name(), old.Slot, old.Database, h.Slot, h.Database).
			WithHint("Choose another name for --output.")
	}
	f.header = h
	switch {
	case f.begun:
		return nil
	case f.f != nil:
		f.begun = true
		if err := f.f.Truncate(f.size); err != nil {
			return err
		}
		_, err := f.f.Seek(f.size, io.SeekStart)
		return err
	}
	if err := f.open(f.name(h.StartLSN), os.O_CREATE|os.O_EXCL); err != nil {
		return openError(err)
	}
	f.begun, f.size = true, 0
	// The directory entry must be durable, too.
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (f *File) Write(b []byte) (int, error) {
	n, err := f.f.Write(b)
	f.size += int64(n)
	return n, err
}

// Sync makes everything written durable.
func (f *File) Sync() error { return f.f.Sync() }

// Full reports whether it is time for a new file. The caller then writes an end record, and calls
// Close and Begin.
func (f *File) Full() bool { return f.rotate > 0 && f.size >= f.rotate }

// Close syncs and closes the open file, if there is one.
func (f *File) Close() error {
	if f.f == nil {
		return nil
	}
	err := f.f.Sync()
	if e := f.f.Close(); err == nil {
		err = e
	}
	f.f, f.begun = nil, false
	return err
}
