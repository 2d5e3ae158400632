package check

func (c *checker) encoding() error {
	s, t := c.s.PgConn().ParameterStatus("server_encoding"), c.t.PgConn().ParameterStatus("server_encoding")
	switch {
	case s == t:
		c.ok("encoding", "both databases are encoded in %s", s)
	case s == "SQL_ASCII":
		c.warn("encoding", "Create the target with ENCODING 'SQL_ASCII' to keep bytes as they are, or clean up what is not "+
			t+".", "the source is SQL_ASCII: text that is not valid %s cannot be stored on the target", t)
	case t == "UTF8":
		c.ok("encoding", "text is converted from %s to UTF8", s)
	default:
		c.warn("encoding", "Create the target with ENCODING 'UTF8'.",
			"text is converted from %s to %s; characters that %s does not have cannot be stored", s, t, t)
	}
	return nil
}
