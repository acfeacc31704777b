"""Settings of Sphinx: ``make docs`` builds the pages of this folder, and the READMEs where they stand.

Sphinx with MyST, and not MkDocs: pages stay the Markdown that a repository shows, the API comes from docstrings,
and a reference to a page, heading or file that is not there is an error.
"""

from __future__ import annotations

project = "normkernels"
author = "the normkernels authors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]

# The source is the checkout: a link from one document to another means the same here and in the repository.
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/findings/*.md",
    "conformance/README.md",
    "examples/README.md",
    "reports/README.md",
    "fixtures/README.md",
    "benchmarks/results/README.md",
]
exclude_patterns = [".*", "build", "dist"]
# a finding is reached from the table of findings; test_pages.py looks for all other pages in the first one
suppress_warnings = ["toc.not_included"]

html_theme = "furo"
html_title = "normkernels and conformance"
# index.html, which leads to the first page
html_extra_path = ["redirect"]

html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["wide.css"]
# headings can be linked to, as in a repository
myst_heading_anchors = 3

autodoc_member_order = "bysource"
