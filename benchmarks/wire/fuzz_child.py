"""Feeds decoders with damaged bytes; a process of its own, since what it looks for may end it.

`python -m benchmarks.wire.fuzz_child ENGINE INPUTS SEED FOLDER`. ENGINE is `own` or `atheris`. The figures go to
FOLDER/figures.json, inputs that something is wrong with to FOLDER/*.input; the one that is being tried is in
FOLDER/current, for the case that this process does not survive it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import resource
import signal
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from hedgerow.errors import PayloadError

if TYPE_CHECKING:
    # Not before libFuzzer can see what is imported.
    from benchmarks.wire.decoders import Decoder

__all__ = ["MEMORY_BYTES", "SECONDS", "Line", "Trials", "tracing"]

SECONDS = 1.0
"""Processor time that an input may take."""
MEMORY_BYTES = 256 * 2**20
"""What all of the process may allocate beyond what it held when it began."""
_TRACED = 8
"""One input of so many is traced: which lines it reaches, and what it allocates."""
_SIZE = 4

Line = tuple[CodeType, int]


class _HungError(BaseException):
    """An input takes too long. No decoder's own handler may catch it."""


class Trials:
    """Tries inputs one by one, and counts. Until it is closed, the process has no other use for SIGPROF.

    Args:
        folder: where files go.
        found: the decoders.
    """

    def __init__(self, folder: Path, *, found: Sequence[Decoder]) -> None:
        self.decoders = found
        self.counts: Counter[str] = Counter()
        self.peak = 0
        self._folder = folder
        path = folder / "current"
        path.write_bytes(bytes(1 << 16))
        with path.open("r+b") as file:
            self._current = mmap.mmap(file.fileno(), 0)
        self._handler = signal.signal(signal.SIGPROF, _interrupt)
        self._resident = _resident()

    def close(self) -> None:
        """Gives SIGPROF back."""
        signal.signal(signal.SIGPROF, self._handler)
        self._current.close()

    def run(self, index: int, data: bytes) -> None:
        """Tries one input of a decoder."""
        decoder = self.decoders[index]
        whole = bytes([index]) + data
        self._current[: _SIZE + len(whole)] = len(whole).to_bytes(_SIZE, "little") + whole
        self.counts["inputs"] += 1
        wrong = None
        try:
            with _limited():
                decoder.run(data)
        except PayloadError:
            self.counts["refused"] += 1
        except _HungError:
            wrong = "hangs"
        except Exception as error:
            wrong = "crashes"
            self._note(whole, f"{decoder.name}: {type(error).__name__}: {error}")
        else:
            self.counts["valid"] += 1
        if wrong is not None:
            self.counts[wrong] += 1
            if wrong == "hangs":
                self._note(whole, f"{decoder.name}: more than {SECONDS:g} s")

    def traced(self, index: int, data: bytes, lines: set[Line]) -> None:
        """The same; lines that it reaches are added to `lines`, and what it allocates is measured."""
        tracemalloc.start()
        with tracing(lines):
            self.run(index, data)
        self.peak = max(self.peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    def finish(self, **more: float) -> None:
        """Writes the figures."""
        found = {
            **self.counts,
            "peak_bytes": self.peak,
            "resident_growth": max(0, _resident() - self._resident),
            **more,
        }
        (self._folder / "figures.json").write_text(json.dumps(found))

    def _note(self, whole: bytes, what: str) -> None:
        # A few of them say enough.
        number = self.counts["crashes"] + self.counts["hangs"]
        if number < 20:
            (self._folder / f"{number}.input").write_bytes(whole)
            print(f"{what[:500]}  ({number}.input)", flush=True)


def own(trials: Trials, *, inputs: int, seed: int) -> None:
    """Mutates valid inputs, and those of its own that reached a new line."""
    from benchmarks.wire.mutations import mutated

    dice, lines = random.Random(seed), set[Line]()
    corpora = [list(decoder.seeds) for decoder in trials.decoders]
    for index, seeds in enumerate(corpora):
        for number, data in enumerate(seeds):
            before = trials.counts["valid"]
            trials.traced(index, data, lines)
            assert trials.counts["valid"] > before, f"{trials.decoders[index].name}: seed {number} is not valid"
    while trials.counts["inputs"] < inputs:
        index = dice.randrange(len(corpora))
        corpus = corpora[index]
        data = mutated(dice.choice(corpus), corpus, dice)
        if trials.counts["inputs"] % _TRACED:
            trials.run(index, data)
            continue
        known = len(lines)
        trials.traced(index, data, lines)
        if len(lines) > known:
            corpus.append(data)
    trials.finish(corpus=sum(map(len, corpora)), lines=len(lines))


def guided(*, inputs: int, seed: int, folder: Path) -> NoReturn:
    """The same by libFuzzer, which sees each branch; it ends the process."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # optional, and without types

    with atheris.instrument_imports(include=["hedgerow.codec", "hedgerow.exchange", "hedgerow.representation"]):
        from benchmarks.wire.decoders import decoders

        trials = Trials(folder, found=decoders())
    _bound_memory()
    corpus = folder / "corpus"
    corpus.mkdir()
    number = len(trials.decoders)
    for index, decoder in enumerate(trials.decoders):
        for k, data in enumerate(decoder.seeds):
            (corpus / f"{index}-{k}").write_bytes(bytes([index]) + data)

    def try_one(data: bytes) -> None:
        trials.run(data[0] % number if data else 0, data[1:])
        if trials.counts["inputs"] >= inputs:
            trials.finish(corpus=len(list(corpus.iterdir())))
            # libFuzzer would write what it thinks of that, and count it as a crash.
            os._exit(0)

    options = [f"-seed={seed + 1}", "-max_len=4096", "-timeout=60", "-rss_limit_mb=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], str(corpus), *options], try_one)
    atheris.Fuzz()
    raise AssertionError("the fuzzer ended by itself")


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    # Of the processor, since others use it too.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise _HungError


@contextlib.contextmanager
def tracing(lines: set[Line]) -> Iterator[None]:
    """Adds the lines of ours that are reached in the block to `lines`."""
    before = sys.gettrace()
    sys.settrace(_tracer(lines))
    try:
        yield
    finally:
        sys.settrace(before)


def _tracer(lines: set[Line]) -> Callable[[FrameType, str, Any], Any]:
    def local(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            lines.add((frame.f_code, frame.f_lineno))
        return local

    def begun(frame: FrameType, event: str, argument: object) -> Any:
        return local if "hedgerow" in frame.f_code.co_filename else None

    return begun


def _bound_memory() -> None:
    limit = _data_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say how much data there is")


def _main(engine: str, inputs: str, seed: str, folder: str) -> None:
    if engine == "atheris":
        guided(inputs=int(inputs), seed=int(seed), folder=Path(folder))
    began = time.process_time()
    from benchmarks.wire.decoders import decoders

    trials = Trials(Path(folder), found=decoders())
    _bound_memory()
    own(trials, inputs=int(inputs), seed=int(seed))
    print(f"{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    _main(*sys.argv[1:])
