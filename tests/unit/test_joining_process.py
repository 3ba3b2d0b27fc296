"""The worker's process, the examination of data, and that the process which keeps the stream is light."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flwr.app import Message

from hedgerow.client.joining.examine import examine
from hedgerow.client.joining.worker import Answer, Failed, WorkerProcess
from hedgerow.errors import HedgerowError
from hedgerow.wire.flower import (
    assign_message_id,
    content_of,
    decode_message,
    encode_message,
    identify_process,
    payload_in,
)
from tests.waiting import until

APP = "tests.contract.grid_apps:app"
CONFIG = {"partition-id": 4}


def message_with(payload: bytes) -> bytes:
    identify_process()
    message = Message(content_of(payload), dst_node_id=9, message_type="train", group_id="1")
    assign_message_id(message)
    return encode_message(message)


def test_a_worker_answers_and_its_death_is_told() -> None:
    worker = WorkerProcess('{"suffix": "!"}', app=APP)
    try:
        first = worker.answer(message_with(b"hello"), state=b"", node_config=CONFIG)
        assert isinstance(first, Answer)
        assert payload_in(decode_message(first.message).content) == b"hello!"
        assert first.state
        assert worker.answer(message_with(b"bug"), state=b"", node_config=CONFIG) == Failed("KeyError: 'x'")
        died = Failed("its worker process died with exit code 9")
        assert worker.answer(message_with(b"die"), state=b"", node_config=CONFIG) == died
        assert not worker.alive
        assert worker.answer(message_with(b"more"), state=b"", node_config=CONFIG) == died
    finally:
        worker.close()


def test_a_worker_that_is_killed_while_it_works_lets_go_of_who_waits() -> None:
    worker = WorkerProcess('{"suffix": "!"}', app=APP)
    found: list[Answer | Failed] = []
    message = message_with(b"hello")
    waiting = threading.Thread(target=lambda: found.append(worker.answer(message, state=b"", node_config=CONFIG)))
    waiting.start()
    worker.kill()
    waiting.join(30)
    worker.close()
    assert found == [Failed("its worker process died with exit code -9")]


def test_a_worker_ends_with_the_process_that_started_it_in_the_midst_of_its_work(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import os, time\nfrom flwr.clientapp import ClientApp\napp = ClientApp()\n"
        "@app.train()\ndef train(message, context):\n"
        "    open('busy', 'w').close()\n    while True: sum(range(1000))\n"
    )
    (tmp_path / "message").write_bytes(message_with(b"x"))
    code = (
        "import os, sys, threading; from pathlib import Path;"
        "from hedgerow.client.joining.worker import WorkerProcess; w = WorkerProcess('{}', app='busy:app');"
        "print(w.pid, flush=True);"
        "w.answer(Path('message').read_bytes(), state=b'', node_config={})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until(lambda: (tmp_path / "busy").exists(), what="work")
        parent.kill()
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z (" in _state(pid), what="its end")


def _state(pid: int) -> str:
    try:
        return next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("State"))
    except OSError:
        return "Z (gone)"


def test_a_worker_trains_with_the_threads_it_is_given_and_a_quiet_profiler() -> None:
    worker = WorkerProcess("{}", app=APP, threads=3)
    try:
        told = Path(f"/proc/{worker.pid}/environ")
        # The kernel shows none of it until the new program is in place.
        until(lambda: told.read_bytes() != b"")
        environment = told.read_bytes().split(b"\0")
        assert {b"KINETO_LOG_LEVEL=99", b"OMP_NUM_THREADS=3", b"MKL_NUM_THREADS=3"} <= set(environment)
    finally:
        worker.close()


def test_what_the_client_logs_is_told_before_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talking.py").write_text(
        "import logging\nfrom flwr.app import Message\nfrom flwr.clientapp import ClientApp\napp = ClientApp()\n"
        "@app.train()\ndef train(message, context):\n"
        "    logging.getLogger('hedgerow.client.building').info('%s, says %s', 'native', 'kernels')\n"
        "    logging.getLogger('elsewhere').warning('not for the user')\n"
        "    return Message(message.content, reply_to=message)\n"
    )
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    worker = WorkerProcess("{}", app="talking:app", tell=told.append)
    try:
        for _ in range(2):
            assert isinstance(worker.answer(message_with(b"hello"), state=b"", node_config=CONFIG), Answer)
    finally:
        worker.close()
    assert told == ["native, says kernels"] * 2


def test_data_is_examined_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert asyncio.run(examine("digits", path=None)) == 1438
    with pytest.raises(HedgerowError, match="absent") as caught:
        asyncio.run(examine("npz", path=tmp_path / "absent.npz"))
    assert caught.value.exit_code == 1


def test_data_that_ends_the_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "violent.py").write_text("import os\ndef data():\n    os._exit(3)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HedgerowError, match=r"'violent:data' cannot be loaded: .* exit code 3"):
        asyncio.run(examine("violent:data", path=None))


def test_the_process_that_keeps_the_stream_imports_neither_torch_nor_flower() -> None:
    names = sorted(path.stem for path in (Path(__file__).parents[2] / "client/hedgerow/client/joining").glob("*.py"))
    assert "agent" in names
    modules = [f"hedgerow.client.joining.{name}" for name in names if name != "__init__"]
    modules += ["hedgerow.client.commands.join", "hedgerow.identity", "hedgerow.wire.addresses"]
    code = (
        f"import importlib, sys; [importlib.import_module(m) for m in {modules!r}];"
        "print(sorted({'torch', 'flwr', 'numpy', 'sklearn', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
