package audit

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// pattern is one of Config.Topics.
type pattern struct {
	text  string
	exact bool
	re    *regexp.Regexp
}

var placeholder = regexp.MustCompile(`\{[A-Za-z0-9._-]+\}|\*`)

func parsePatterns(texts []string) (all []pattern, err error) {
	for _, text := range texts {
		p := pattern{text: text, exact: !strings.ContainsAny(text, "{}*^")}
		switch {
		case text == "":
			return nil, fmt.Errorf("%w: an empty topic", ErrConfig)
		case strings.HasPrefix(text, "^"):
			p.re, err = regexp.Compile(`^(?:` + text + `)$`)
		case !p.exact:
			p.re, err = compileGlob(text)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: topic %q: %w", ErrConfig, text, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// compileGlob makes each "*" and {placeholder} any characters of a name, or none.
func compileGlob(text string) (*regexp.Regexp, error) {
	var re strings.Builder
	at := 0
	for _, m := range placeholder.FindAllStringIndex(text, -1) {
		re.WriteString(regexp.QuoteMeta(text[at:m[0]]) + "[A-Za-z0-9._-]*")
		at = m[1]
	}
	re.WriteString(regexp.QuoteMeta(text[at:]))
	if strings.ContainsAny(placeholder.ReplaceAllString(text, ""), "{}") {
		return nil, errors.New("a brace that belongs to no placeholder such as {class}")
	}
	return regexp.Compile("^" + re.String() + "$")
}

func (p pattern) matches(name string) bool {
	if p.exact {
		return p.text == name
	}
	return p.re.MatchString(name)
}
