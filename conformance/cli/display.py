"""Progress of a run on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rich.console import Console

from conformance import report


class Display:
    """Display of progress that also keeps errors of the suite itself."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: report.Progress | None = None
        self._title = ""
        self._failed: dict[str, str] = {}  # test, or the part that broke -> text

    def of_chunks(self, number: int | None, count: int) -> Display:
        """Begin again for the next chunks, at most ``count`` of them; errors of earlier ones are kept."""
        self.close()
        more = "s from" if count > 1 else ""
        self._title = "" if number is None else f"chunk{more} {number}: "
        return self

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the items, where this process runs them."""
        self._begin(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        """Count the items, where workers run them."""
        self._begin(len(ids))

    def _begin(self, items: int) -> None:
        if items and self._progress is None:
            self._progress = report.Progress(self._console, items, self._title)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Show that an item was judged, or could not be."""
        judged = dict(report.user_properties).get("conform")
        if isinstance(judged, dict) and self._progress is not None:
            self._progress.item(judged)
        if report.failed:
            self._failed[report.nodeid] = report.longreprtext

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep the error that prevented the suite from starting."""
        if report.failed:
            self._failed["collection"] = report.longreprtext

    def pytest_internalerror(self, excrepr: object) -> None:
        """Keep the error that broke pytest."""
        self._failed["pytest"] = str(excrepr)

    def close(self) -> None:
        """End the line of progress."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def errors(self, unfinished: Sequence[str]) -> list[str]:
        """Return errors outside of verdicts: a finished item's failure is in the report."""
        judged = {
            name for name in self._failed if "[" in name and not name.endswith(tuple(f"[{i}]" for i in unfinished))
        }
        return [text for name, text in self._failed.items() if name not in judged]
