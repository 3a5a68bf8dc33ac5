"""Reports as text: table, JSON, CSV, Markdown."""
