"""Reports of gate results for people: terminal table, Markdown, one HTML file."""
