package sqltext

// A Token is a piece of a query that is neither white space nor a comment.
type Token struct {
	Text  string
	At    int  // offset of its first byte
	Depth int  // number of enclosing parentheses
	Word  bool // an unquoted word
	Name  bool // in double quotes
}

// Tokens returns the tokens of a query.
func (r Rules) Tokens(q string) (list []Token) {
	depth := 0
	for at := 0; at < len(q); {
		n, kind := r.token(q[at:])
		t := q[at : at+n]
		if kind != space {
			if t == ")" || t == "]" {
				depth--
			}
			list = append(list, Token{Text: t, At: at, Depth: depth, Word: kind == word, Name: kind == name})
			if t == "(" || t == "[" {
				depth++
			}
		}
		at += n
	}
	return list
}
