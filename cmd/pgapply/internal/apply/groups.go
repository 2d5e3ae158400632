package apply

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
)

// maxGroups limits the memory of all groups together. There is one group more than are written at
// the same time. Larger groups are not faster.
const maxGroups = 12 << 20

// groups collects changes and gives them to the writer.
type groups struct {
	writer *writer
	cur    *plan.Group   // collects what comes in
	idle   []*plan.Group // what the writer gave back
	most   int           // how large a group may become, in bytes
}

// offer gives the writer what is complete, if it can take it.
func (q *groups) offer() error {
	if !q.cur.Ready() {
		return nil
	}
	if len(q.idle) == 0 {
		select {
		case g := <-q.writer.free:
			q.idle = append(q.idle, g)
		case <-q.writer.failed:
			return q.writer.err
		default:
			return nil
		}
	}
	return q.handOver()
}

// await waits until the writer is idle.
func (q *groups) await() error { return q.wait(q.writer.jobs) }

// wait waits until the writer has given back n groups.
func (q *groups) wait(n int) error {
	for len(q.idle) < n {
		select {
		case g := <-q.writer.free:
			q.idle = append(q.idle, g)
		case <-q.writer.failed:
			return q.writer.err
		}
	}
	return nil
}

// take takes one of the idle groups.
func (q *groups) take() *plan.Group {
	n := len(q.idle) - 1
	g := q.idle[n]
	q.idle = q.idle[:n]
	return g
}

// handOver gives all complete transactions to the writer, which has returned a group. The open
// transaction moves to that group.
func (q *groups) handOver() error {
	g, next := q.cur, q.take()
	g.MoveOpen(next)
	q.cur = next
	return q.send(job{group: g})
}

// do gives the writer a job, which it does after all earlier ones.
func (q *groups) do(what func(context.Context, *plan.Group) error) error {
	if err := q.wait(1); err != nil {
		return err
	}
	return q.send(job{group: q.take(), do: what})
}

// settle gives everything that is complete to the writer, and waits until it is idle.
func (q *groups) settle() error {
	if err := q.await(); err != nil || !q.cur.Ready() {
		return err
	}
	if err := q.handOver(); err != nil {
		return err
	}
	return q.await()
}

func (q *groups) send(j job) error {
	select {
	case q.writer.work <- j:
		return nil
	case <-q.writer.ended:
		return write.ErrEnded
	case <-q.writer.failed:
		return q.writer.err
	}
}
