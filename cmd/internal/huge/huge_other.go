//go:build !linux

package huge

func reserve(int) []byte { return nil }

func free([]byte) {}
