package format

// AppendBody lets the tests have bodies of records that Writer refuses.
func AppendBody(r Record) ([]byte, error) { return r.appendBody(nil) }
