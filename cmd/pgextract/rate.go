package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/time/rate"

	"github.com/pgsluice/pgsluice/cmd/internal/cli"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/pgextract/internal/copyout"
)

// leastRate is the lowest rate. A lower one would make a load that looks dead.
const leastRate = 100_000

// limiter returns the limiter that --rate asks for. If the rate is in a file, a SIGHUP makes the
// program read it again.
func (f *flags) limiter(ctx context.Context, env *cli.Env) (*rate.Limiter, error) {
	limit, err := readRate(f.Rate)
	if err != nil {
		return nil, err
	}
	l := copyout.NewLimiter(limit)
	if f.Rate != "" {
		env.Log.Info("reading rows " + says(limit))
	}
	if !strings.HasPrefix(f.Rate, "@") {
		return l, nil
	}
	hangups := cli.Hangups()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			limit, err := readRate(f.Rate)
			if err != nil {
				env.Log.Warn(fmt.Sprintf("the rate stays as it is: %v", err))
				continue
			}
			l.SetLimit(limit)
			env.Log.Info("reading rows " + says(limit) + " from now on")
		}
	}()
	return l, nil
}

func says(limit rate.Limit) string {
	if limit == rate.Inf {
		return "without a limit"
	}
	return "at most at " + humanize.Bytes(uint64(limit)) + "/s"
}

// readRate returns the rate that is given, or that is in the file that is given.
func readRate(given string) (rate.Limit, error) {
	text := given
	if file, ok := strings.CutPrefix(given, "@"); ok {
		b, err := os.ReadFile(file)
		if err != nil {
			return 0, fault.New(fault.Config, "could not read the rate: %w", err).
				WithHint("Write a rate such as 50MB/s, or unlimited, into the file of --rate.")
		}
		text = strings.TrimSpace(string(b))
	}
	if given == "" || text == "unlimited" {
		return rate.Inf, nil
	}
	n, err := humanize.ParseBytes(strings.TrimSuffix(text, "/s"))
	if err != nil || n < leastRate {
		return 0, fault.New(fault.Usage, "invalid rate %q", text).
			WithHint("Give bytes in a second with a unit, at least 100kB/s: --rate 50MB/s")
	}
	return rate.Limit(n), nil
}
