package receive

import (
	"time"

	"github.com/pgsluice/pgsluice/format"
)

// heard is what the server has told of its WAL.
type heard struct {
	at     format.LSN // everything before it has been sent
	clock  format.Time
	passed time.Time // when the stream was last told
}

// progress writes a progress record if the server's position has moved past everything that was
// written, or if it is time for one; often enough, or at once.
func (s *session) progress(now bool) error {
	since := time.Since(s.heard.passed)
	if s.within() || s.heard.at <= s.position && since < heartbeat || !now && since < progressEvery {
		return nil
	}
	if since >= heartbeat { // the next one should know better
		s.answers.send(true)
	}
	if err := s.meetPosition(s.heard.at); err != nil {
		return err
	}
	s.moveTo(max(s.position, s.heard.at))
	s.heard.passed = time.Now()
	return write(s.w, &format.Progress{LSN: s.position, Time: s.heard.clock})
}
