"""The report of a folder of results: a page that opens without a server, tables as Markdown, LaTeX and CSV."""
