"""Benchmarks: see README.md."""

import os

from hedgerow.wire.launch import HUGE_PAGES

# What is timed in this process, dense or not, has its memory as the workers have that train.
os.environ.update({name: value for name, value in HUGE_PAGES.items() if name not in os.environ})
