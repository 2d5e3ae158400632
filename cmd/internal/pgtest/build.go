package pgtest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// build builds the programs and returns their directory. It reuses programs that the tests of
// another package built from the same source files. The directory is kept, because linking takes
// longer than most tests.
func build(flag string) (string, error) {
	id, err := sources()
	if err != nil {
		return "", err
	}
	all := filepath.Join(os.TempDir(), fmt.Sprintf("pgsluice-bin-%d-", os.Getuid()))
	lock, err := os.OpenFile(all+"lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	dir := all + id + flag
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	outdated, _ := filepath.Glob(all + "*-race=*")
	for _, old := range outdated {
		if st, err := os.Stat(old); err == nil && time.Since(st.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(old)
		}
	}
	made := dir + ".new"
	_ = os.RemoveAll(made)
	cmd := exec.Command("go", "build", flag, "-ldflags=-s -w", "-o", made+"/",
		"./cmd/pgextract", "./cmd/pgdecode", "./cmd/pgapply", "./cmd/pgcutover")
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, os.Rename(made, dir)
}

// sources returns a hash of the source files of the programs and scripts. Reading them also keeps
// the go command's test cache correct: the cache notices changes of the files that a test reads,
// but not of the programs that a test builds and runs.
func sources() (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version())
	for _, dir := range []string{"go.mod", "go.sum", "cmd", "format", "scripts"} {
		err := filepath.WalkDir(filepath.Join(Root(), dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			fmt.Fprintln(hash, path)
			_, err = io.Copy(hash, f)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", hash.Sum(nil))[:16], nil
}
