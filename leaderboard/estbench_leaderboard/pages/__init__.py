"""One module a page: `page(request, **parts)` asks the snapshot (or, for single documents, the database) and returns a
`Content`, from which the HTML, the JSON and the CSV are made."""
