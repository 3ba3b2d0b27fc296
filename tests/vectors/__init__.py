"""Test vectors: the files in protos/vectors, for whoever writes another client. `python -m tests.vectors` makes them.

A vector says what both ends know, what travels and what that holds. The inputs come from a hash function and the
encoders draw nothing, so that the files come out the same each time. Only Zstandard's frames may differ between its
versions.
"""

from tests.vectors.form import FOLDER, Example, Way, holds_of, sent_of, text_of

__all__ = ["FOLDER", "Example", "Way", "holds_of", "sent_of", "text_of"]
