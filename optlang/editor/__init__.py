"""What editors and pages need to show the language: its words by kind, a TextMate grammar, a lexer for Pygments."""
