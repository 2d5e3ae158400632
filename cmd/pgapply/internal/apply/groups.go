package apply

import (
	"context"

	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
)

// maxGroups limits the memory of all groups together. There is one more group than the writer
// writes in parallel. Larger groups are not faster.
const maxGroups = 12 << 20

// groups collects changes and gives them to the writer.
type groups struct {
	writer *writer
	cur    *plan.Group   // collects the changes that are read
	idle   []*plan.Group // empty groups that the writer gave back
	most   int           // size limit of a group, in bytes
}

// offer gives the complete transactions to the writer if the writer can take them.
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

// handOver gives all complete transactions to the writer, which must have given back a group. The
// open transaction moves to that group.
func (q *groups) handOver() error {
	g, next := q.cur, q.take()
	g.MoveOpen(next)
	q.cur = next
	return q.send(job{group: g})
}

// do gives the writer a job. The writer does it after all earlier jobs.
func (q *groups) do(what func(context.Context, *plan.Group) error) error {
	if err := q.wait(1); err != nil {
		return err
	}
	return q.send(job{group: q.take(), do: what})
}

// settle gives all complete transactions to the writer, and waits until the writer is idle.
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
