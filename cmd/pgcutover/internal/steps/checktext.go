package steps

func (c *checker) encoding() error {
	s, t := c.s.PgConn().ParameterStatus("server_encoding"), c.t.PgConn().ParameterStatus("server_encoding")
	switch {
	case s == t:
		c.ok("both databases are encoded in %s", s)
	case s == "SQL_ASCII":
		c.warn("Create the target with ENCODING 'SQL_ASCII' to keep bytes as they are, or clean up what is not "+t+".", "the source is SQL_ASCII: text that is not valid %s cannot be stored on the target", t)
	case t == "UTF8":
		c.ok("text is converted from %s to UTF8", s)
	default:
		c.warn("Create the target with ENCODING 'UTF8'.", "text is converted from %s to %s; characters that %s does not have cannot be stored", s, t, t)
	}
	return nil
}

func (c *checker) collation() error {
	const locale = "SELECT datcollate || ', ' || datctype FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
	s, err := c.ask(c.s, locale)
	if err != nil {
		return err
	}
	t, err := c.ask(c.t, locale)
	if err != nil {
		return err
	}
	if s != t {
		c.warn("Create the target with the source's LC_COLLATE and LC_CTYPE, and TEMPLATE template0, if the order matters.",
			"text is sorted and compared by other rules: collation and character type are %s on the source, %s on the target", s, t)
	} else {
		c.ok("both databases have the collation and character type %s", s)
	}
	return nil
}
