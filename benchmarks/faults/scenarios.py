"""What is done to runs. Each scenario is one run, disturbed once or more, and gives a row for each disturbance."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.lab import DEVICES, Lab, device_name, experiment_of
from benchmarks.faults.network import Proxy, namespace
from benchmarks.faults.rows import Row, outcome_of
from benchmarks.processes import Children, family
from hedgerow.config import Experiment
from hedgerow.errors import RunError

__all__ = ["FULL", "QUICK", "ROUNDS", "Bed", "simulated", "undisturbed"]

ROUNDS = 4
LAST = DEVICES - 1
"""The device that most is done to."""


@dataclass(frozen=True, slots=True)
class Bed:
    """Where scenarios are tried.

    Attributes:
        folder: each has one of its own in it.
        experiment: what is run.
        reference: the model of the undisturbed run.
    """

    folder: Path
    experiment: Experiment
    reference: bytes

    @contextlib.contextmanager
    def lab(
        self,
        name: str,
        *,
        experiment: Experiment | None = None,
        grace: float = 60.0,
        hosts: tuple[str, ...] = (),
        listen: str = "127.0.0.1",
    ) -> Iterator[Lab]:
        """A run of its own, whose processes end with the block."""
        with Children(self.folder / name) as children:
            yield Lab(children, experiment or self.experiment, grace=grace, hosts=hosts, listen=listen)


def undisturbed(folder: Path, experiment: Experiment) -> tuple[Row, bytes]:
    """The run that the others are compared with, and its model."""
    with Children(folder / "undisturbed") as children:
        lab = Lab(children, experiment)
        lab.start()
        lab.finish()
        return Row("none", f"{experiment.rounds} rounds", outcome_of(lab, reference=None)), lab.model()


def simulated(folder: Path, experiment: Experiment) -> tuple[Row, bytes]:
    """The same without a network, in half the time: it gives the same model."""
    with Children(folder / "simulated") as children:
        lab = Lab(children, experiment)
        lab.simulate()
        return Row("none (simulated)", f"{experiment.rounds} rounds", outcome_of(lab, reference=None)), lab.model()


def device_killed(bed: Bed) -> list[Row]:
    """kill -9 of a device, which is started again at once, and then after the others are done."""
    with bed.lab("device-killed") as lab:
        lab.start()
        at_once = _kill_training_device(lab, round=1)
        lab.start_device(LAST)
        later = _kill_training_device(lab, round=2)
        lab.wait(lambda: lab.journal() == (2, DEVICES - 1, False), "the other devices have replied")
        lab.start_device(LAST)
        lab.finish()
        outcome = outcome_of(lab, reference=bed.reference)
    return [
        Row("kill -9 a device in training, restart it at once", at_once, outcome),
        Row(
            "kill -9 a device in training, restart it when the others had replied",
            f"{later}; the round waited",
            outcome,
        ),
    ]


def device_left_out(bed: Bed) -> list[Row]:
    """kill -9 of a device, for longer than a round waits."""
    with bed.lab("device-left-out", grace=1.5) as lab:
        lab.start()
        _kill_training_device(lab, round=2)
        seconds = lab.wait(lambda: lab.records()[-1].round == 2, "the round goes on without it")
        lab.start_device(LAST)
        lab.finish()
        outcome = outcome_of(lab, reference=None, uncounted={2: "lost"})
        again = lab.records()[3].replies
    seen = f"round 2 went on without it after {seconds:.1f} s (grace 1.5 s); {again} replies in round 3"
    return [Row("kill -9 a device in training, restart it after the round went on", seen, outcome)]


def coordinator_killed(bed: Bed) -> list[Row]:
    """kill -9 of the coordinator in each phase, restarted with the same command."""
    seen: dict[str, str] = {}
    with bed.lab("coordinator-killed") as lab:
        lab.start(without=(LAST,))
        lab.wait(lambda: lab.says("coordinator", "making the initial mask") > 0, "it prunes", poll=0.005)
        lab.kill_coordinator()
        seen["making the mask"] = _is(not (lab.run / "checkpoint.safetensors").exists(), "nothing was on disk yet")
        lab.start_coordinator()
        waiting = f"{DEVICES - 1} of {DEVICES} are there"
        lab.wait(lambda: lab.says("coordinator", waiting) > 0, "it waits for the last device")
        lab.kill_coordinator()
        seen["waiting for devices"] = _is(lab.journal() is None, "the mask was kept, no round was open")
        lab.start_coordinator()
        lab.start_device(LAST)
        lab.wait(lambda: any(_trained(lab, k) for k in range(DEVICES)), "round 1 is asked", poll=0.005)
        lab.kill_coordinator()
        seen["asking (requests out, no reply in)"] = _is(
            lab.journal() == (1, 0, False), "the round was open, no reply kept"
        )
        lab.start_coordinator()
        seen["taking replies"] = _kill_mid_replies(lab, round=2)
        seen["between closing the round and its checkpoint"] = _kill_closed(lab, round=3)
        lab.wait(lambda: lab.records()[-1].round == ROUNDS, "the last round is recorded", poll=0.002)
        lab.kill_coordinator()
        seen["delivering"] = _is(not (lab.run / "report.html").exists(), "the report was not written yet")
        lab.start_coordinator()
        lab.finish()
        outcome = outcome_of(lab, reference=bed.reference)
    return [Row(f"kill -9 the coordinator: {phase}", text, outcome) for phase, text in seen.items()]


def coordinator_killed_at_random(bed: Bed, *, kills: int = 6) -> list[Row]:
    """kill -9 of the coordinator again and again, whatever it does."""
    dice = random.Random(0)
    with bed.lab("coordinator-killed-at-random") as lab:
        lab.start()
        done = 0
        while done < kills:
            # From before it listens to the midst of a round.
            end = time.monotonic() + dice.uniform(0.2, 6.0)
            while time.monotonic() < end and not (lab.run / "report.html").exists():
                time.sleep(0.01)
            if (lab.run / "report.html").exists():
                break
            lab.kill_coordinator()
            done += 1
            lab.start_coordinator()
        _is(done >= kills // 2, f"the run lasted for {kills // 2} kills")
        lab.finish()
        outcome = outcome_of(lab, reference=bed.reference)
    return [
        Row(
            f"kill -9 the coordinator {done} times at random moments",
            "restarted with the same command each time",
            outcome,
        )
    ]


def network_cut(bed: Bed) -> list[Row]:
    """A network that goes away without a word in the midst of training, and comes back."""
    with namespace() as away:
        if away is None:
            print("network namespaces are not permitted here; the proxy has to do")
            return []
        with bed.lab("network-cut", hosts=(away.host,), listen="0.0.0.0") as lab:
            lab.start(without=(LAST,))
            lab.start_device(LAST, address=f"{away.host}:{lab.port}", prefix=away.prefix)
            lab.training(LAST, round=2)
            seconds = _gone(lab, "silent", away.cut)
            back = _back(lab, away.heal)
            lab.finish()
            outcome = outcome_of(lab, reference=bed.reference)
    seen = f"missed after {seconds:.1f} s, back {back:.1f} s after it was healed"
    return [Row("network cut while a device trains, then healed (network namespace)", seen, outcome)]


def connection_disturbed(bed: Bed) -> list[Row]:
    """A proxy that stalls, then one that closes, then one that is slow."""
    rows = []
    with bed.lab("connection-disturbed") as lab, Proxy(lab.port) as proxy:
        lab.start(without=(LAST,))
        lab.start_device(LAST, address=f"127.0.0.1:{proxy.port}")
        lab.training(LAST, round=1)
        silent = _gone(lab, "silent", proxy.stall)
        back = _back(lab, proxy.resume)
        rows.append(
            (
                "connection stalls while a device trains, then goes on (proxy)",
                f"missed after {silent:.1f} s, back {back:.1f} s after",
            )
        )
        lab.training(LAST, round=2)
        lost = _gone(lab, "lost", proxy.sever)
        time.sleep(1.5)
        back = _back(lab, proxy.resume)
        rows.append(
            (
                "connection is closed while a device trains, new ones too for 1.5 s (proxy)",
                f"missed after {1000 * lost:.0f} ms, back {back:.1f} s after",
            )
        )
        lab.training(LAST, round=3)
        proxy.slow(2000)
        seconds = lab.wait(lambda: lab.records()[-1].round == 3, "the slow device's round is done")
        proxy.resume()
        rows.append(("connection of 2 kB/s, no deadline (proxy)", f"the round waited, {seconds:.1f} s in all"))
        lab.finish()
        outcome = outcome_of(lab, reference=bed.reference)
    return [Row(fault, seen, outcome) for fault, seen in rows]


def device_slow(bed: Bed) -> list[Row]:
    """A device that stops (SIGSTOP) for longer than the deadline of a round, with a quorum of the others."""
    experiment = experiment_of(rounds=bed.experiment.rounds, overrides={"fleet.deadline": 15.0})
    with bed.lab("device-slow", experiment=experiment, grace=120.0) as lab:
        lab.start()
        lab.training(LAST, round=2)
        with _stopped(lab.devices[LAST].pid):
            seconds = lab.wait(lambda: lab.records()[-1].round == 2, "the deadline is over")
        lab.finish()
        outcome = outcome_of(lab, reference=None, uncounted={2: "late"})
        again = lab.records()[3].replies
    seen = f"round 2 ended after {seconds:.0f} s (deadline 15 s) without it; {again} replies in round 3"
    return [Row("slow device: stopped for longer than a round's deadline", seen, outcome)]


def frames_sabotaged(bed: Bed) -> list[Row]:
    """A device that sends damaged frames before each true reply."""
    plan = [
        ["stray chunk", "reordered", "truncated"],
        ["over-long", "wrong digest", "duplicate"],
        ["bad header", "unrequested"],
        ["no frame"],
    ]
    with bed.lab("frames-sabotaged") as lab:
        _with_saboteur(lab, plan)
        outcome = outcome_of(lab, reference=bed.reference)
    reasons = {
        "reordered": "out of order",
        "truncated": "truncated",
        "over-long": "too long",
        "wrong digest": "wrong digest",
        "duplicate": "duplicate",
        "bad header": "bad transfer",
        "stray chunk": "unexpected chunk",
        "unrequested": "unrequested",
        "no frame": "not a frame",
    }
    rows = []
    for what, reason in reasons.items():
        # The second and the third one of it are too many.
        wanted = 2 if what == "duplicate" else 1
        counted = outcome.refused.get(reason, 0)
        wrong = "" if counted == wanted else f"counted {counted} times instead of {wanted}"
        checked = dataclasses.replace(outcome, refused={reason: counted}, problem=outcome.problem or wrong)
        seen = (
            "the first one was taken" if what == "duplicate" else "thrown away on arrival, then the true one was taken"
        )
        rows.append(Row(f"reply: {what}", seen, checked))
    return rows


def replies_sabotaged(bed: Bed) -> list[Row]:
    """A device whose replies come whole and are wrong; the model is that of a run in which it failed each time."""
    plan = {
        "NaN": "not_finite",
        "random bytes": "malformed",
        "another round": "mismatch",
        "announced too large": "transfer",
    }
    with bed.lab("replies-failed") as lab:
        _with_saboteur(lab, [["failure"]] * len(plan))
        reference = lab.model()
    _is(reference != bed.reference, "a reply that is missing shows in the model")
    with bed.lab("replies-sabotaged") as lab:
        _with_saboteur(lab, [[what] for what in plan])
        outcome = outcome_of(lab, reference=reference, uncounted=dict(enumerate(plan.values(), 1)))
        reasons: dict[str, str] = {f.kind: f.reason for r in lab.records() for f in r.failures}
    rows = []
    for what, kind in plan.items():
        own = dataclasses.replace(outcome, refused={kind.replace("_", " "): 1 if kind in reasons else 0})
        rows.append(Row(f"reply: {what}", f"“{reasons.get(kind, '–')}”", own))
    return rows


def all_at_once(bed: Bed) -> list[Row]:
    """The most telling ones in a single run."""
    with bed.lab("all-at-once") as lab:
        lab.start()
        killed = _kill_training_device(lab, round=1)
        lab.start_device(LAST)
        mid = _kill_mid_replies(lab, round=2)
        closed = _kill_closed(lab, round=3)
        lab.finish()
        outcome = outcome_of(lab, reference=bed.reference)
    return [
        Row("kill -9 a device in training, restart it at once", killed, outcome),
        Row("kill -9 the coordinator: taking replies", mid, outcome),
        Row("kill -9 the coordinator: between closing the round and its checkpoint", closed, outcome),
    ]


QUICK: tuple[Callable[[Bed], list[Row]], ...] = (all_at_once,)
FULL: tuple[Callable[[Bed], list[Row]], ...] = (
    device_killed,
    device_left_out,
    coordinator_killed,
    coordinator_killed_at_random,
    network_cut,
    connection_disturbed,
    device_slow,
    frames_sabotaged,
    replies_sabotaged,
)


def _trained(lab: Lab, k: int) -> bool:
    return lab.says(device_name(k), "round 1: training") > 0


def _kill_training_device(lab: Lab, *, round: int) -> str:
    lab.training(LAST, round=round)
    missed = _gone(lab, "lost", lambda: lab.kill_device(LAST))
    replied = lab.says(device_name(LAST), f"round {round}: replied")
    return _is(not replied, f"killed in round {round} before it replied, missed within {1000 * missed:.0f} ms")


def _kill_mid_replies(lab: Lab, *, round: int) -> str:
    """With one device stopped, the others' replies are in; it goes on when the coordinator is dead. Restarts it."""
    lab.training(LAST, round=round)
    with _stopped(lab.devices[LAST].pid):
        lab.wait(lambda: lab.journal() == (round, DEVICES - 1, False), "all but one have replied")
        lab.kill_coordinator()
    lab.start_coordinator()
    return f"{DEVICES - 1} of {DEVICES} replies were kept"


def _kill_closed(lab: Lab, *, round: int) -> str:
    """While it evaluates. Restarts it."""
    lab.wait(lambda: lab.journal() == (round, DEVICES, True), f"round {round} is closed", poll=0.002)
    lab.kill_coordinator()
    open_still = lab.journal() == (round, DEVICES, True) and lab.records()[-1].round == round - 1
    lab.start_coordinator()
    return _is(open_still, f"all {DEVICES} replies were kept, the round was not yet recorded")


def _gone(lab: Lab, cause: str, fault: Callable[[], None]) -> float:
    """Seconds until the coordinator says that the last device is gone, from the fault on."""
    return _said(lab, f"{device_name(LAST)} is gone: {cause}", fault)


def _back(lab: Lab, remedy: Callable[[], None]) -> float:
    """Seconds until the coordinator says that the last device is back, from the remedy on."""
    return _said(lab, f"{device_name(LAST)} is back", remedy)


def _said(lab: Lab, line: str, do: Callable[[], None]) -> float:
    before, began = lab.says("coordinator", line), time.monotonic()
    do()
    lab.wait(lambda: lab.says("coordinator", line) > before, f"{line!r} is said", poll=0.002)
    return time.monotonic() - began


def _with_saboteur(lab: Lab, plan: list[list[str]]) -> None:
    lab.start(without=(LAST,))
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.faults.saboteur", f"127.0.0.1:{lab.port}"]
    command += [lab.identity(LAST), f"{LAST}/{DEVICES}", json.dumps(plan)]
    lab.children.start(command, name=device_name(LAST))
    lab.finish()


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Stops a device and its worker as long as the block lasts."""
    pids = family(pid)
    for one in pids:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def _is(right: bool, text: str) -> str:
    """What was meant to be seen.

    Raises:
        RunError: it was not; the moment was missed.
    """
    if not right:
        raise RunError(f"the moment was missed: not so that {text}")
    return text
