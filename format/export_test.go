package format

// AppendBody lets the tests have bodies of records that Writer refuses.
func AppendBody(r Record) ([]byte, error) { return r.appendBody(nil) }

// SetLimit makes the limit of a record small enough for a test.
func (r *Reader) SetLimit(n int) { r.limit = n }
