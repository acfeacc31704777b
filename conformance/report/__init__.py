"""Reports: records → ``report.json`` for machines; a summary and a page for people."""

from conformance.report import differences
from conformance.report.header import header, origin
from conformance.report.lines import in_lines
from conformance.report.page import page, write_page
from conformance.report.results import Exit, Report, build, exit_code, write
from conformance.report.terminal import Progress, printable, show, show_section, summary

__all__ = [
    "Exit",
    "Progress",
    "Report",
    "build",
    "differences",
    "exit_code",
    "header",
    "in_lines",
    "origin",
    "page",
    "printable",
    "show",
    "show_section",
    "summary",
    "write",
    "write_page",
]
