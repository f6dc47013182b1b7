"""One run as a self-contained HTML page: no script, no external file, the same bytes for the same inputs.

`gathering` finds what the page is about, the section modules turn it into HTML, `page` puts them together.
"""
