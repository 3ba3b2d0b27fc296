"""One thread, so that sums come out the same and tests do not fight over cores; nothing of the user's is touched."""

import atexit
import os
import shutil
import signal
import tempfile

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# In a shell's background job Ctrl-C is ignored, and so it would be by all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What is measured while tests run is not for the user's own runs. Processes that tests start inherit it.
_cache = tempfile.mkdtemp(prefix="hedgerow-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["XDG_CACHE_HOME"] = _cache

# A busy machine is no failure, and the same examples each time make a red run reproducible.
settings.register_profile("hedgerow", deadline=None, derandomize=True)
settings.load_profile("hedgerow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that processes side by side end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
