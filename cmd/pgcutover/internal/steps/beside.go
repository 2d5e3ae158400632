package steps

// beside does two things at once, and returns the error of the first of them that failed. Each of
// the sides has one session, so one of the two uses the source, and the other one the target.
func beside(one, other func() error) error {
	failed := make(chan error, 1)
	go func() { failed <- other() }()
	err := one()
	if e := <-failed; err == nil {
		err = e
	}
	return err
}
