"""Reports: records → ``report.json`` for machines; a summary and a page for people."""

from conformance.report import differences
from conformance.report.compared import compared
from conformance.report.document import Header, NoReport, Report, read
from conformance.report.header import header, origin
from conformance.report.lines import in_lines
from conformance.report.page import page, write_page, write_section
from conformance.report.results import Exit, build, exit_code, write
from conformance.report.terminal import Progress, printable, show, show_section, summary

__all__ = [
    "Exit",
    "Header",
    "NoReport",
    "Progress",
    "Report",
    "build",
    "compared",
    "differences",
    "exit_code",
    "header",
    "in_lines",
    "origin",
    "page",
    "printable",
    "read",
    "show",
    "show_section",
    "summary",
    "write",
    "write_page",
    "write_section",
]
