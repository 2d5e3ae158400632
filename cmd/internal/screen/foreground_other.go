//go:build !linux

package screen

import "os"

func foreground(*os.File) bool { return true }
