package session

// Beside does two things at once, and returns the error of one if it failed, else that of other.
// Each side has one session, so one of the two uses the source, and the other one the target.
func Beside(one, other func() error) error {
	failed := make(chan error, 1)
	go func() { failed <- other() }()
	err := one()
	if e := <-failed; err == nil {
		err = e
	}
	return err
}
