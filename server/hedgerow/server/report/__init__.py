"""A run as one page that needs nothing else: `write_report` (HTML) and `accuracy_picture` (PNG)."""

from hedgerow.server.report.plots import accuracy_picture
from hedgerow.server.report.render import write_report
from hedgerow.server.report.summary import Sizes

__all__ = ["Sizes", "accuracy_picture", "write_report"]
