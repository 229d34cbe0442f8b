"""Reports of gate runs: terminal table, Markdown, self-contained HTML. Numbers in, text out."""
