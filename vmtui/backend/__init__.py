"""Everything that is not a front end: it never imports textual or rich."""
