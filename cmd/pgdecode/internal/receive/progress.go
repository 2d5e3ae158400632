package receive

import (
	"time"

	"github.com/pgsluice/pgsluice/format"
)

// heard is the server's last report about its WAL.
type heard struct {
	at     format.LSN // everything before it has been sent
	clock  format.Time
	passed time.Time // when the last progress record was written
}

// progress writes a progress record if the server's position is past everything written, or if the
// heartbeat is due. It limits their rate, unless now is set.
func (s *session) progress(now bool) error {
	since := time.Since(s.heard.passed)
	if s.within() || s.heard.at <= s.position && since < heartbeat || !now && since < progressEvery {
		return nil
	}
	if since >= heartbeat { // so that the next one has a newer position
		s.answers.send(true)
	}
	if err := s.meetPosition(s.heard.at); err != nil {
		return err
	}
	s.moveTo(max(s.position, s.heard.at))
	s.heard.passed = time.Now()
	return write(s.w, &format.Progress{LSN: s.position, Time: s.heard.clock})
}
