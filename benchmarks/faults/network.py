"""Networks that can be cut: a namespace of the kernel where that is permitted, and a proxy anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import threading
from collections.abc import Iterator

__all__ = ["Namespace", "Proxy", "namespace"]


class Namespace:
    """A network namespace with one link to this machine.

    Attributes:
        host: this machine's address on the link.
        prefix: runs a command in it.
    """

    def __init__(self, name: str, link: str, host: str) -> None:
        self.name, self.host, self._link = name, host, link
        self.prefix = ("ip", "netns", "exec", name)

    def cut(self) -> None:
        """Takes the link down: nobody is told, packets are gone."""
        _ip("link", "set", self._link, "down")

    def heal(self) -> None:
        """Takes it up again."""
        _ip("link", "set", self._link, "up")


@contextlib.contextmanager
def namespace() -> Iterator[Namespace | None]:
    """A namespace while the block lasts; None where this user may not make one."""
    token = secrets.token_hex(3)
    name, link, inner = f"hedgerow-{token}", f"hr{token}a", f"hr{token}b"
    third = secrets.randbelow(256)
    host, guest = f"10.213.{third}.1", f"10.213.{third}.2"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.SubprocessError):
        yield None
        return
    try:
        try:
            _ip("link", "add", link, "type", "veth", "peer", "name", inner, "netns", name)
            _ip("address", "add", f"{host}/30", "dev", link)
            _ip("link", "set", link, "up")
            for words in (
                ("address", "add", f"{guest}/30", "dev", inner),
                ("link", "set", inner, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", name, *words)
        except subprocess.SubprocessError:
            yield None
            return
        yield Namespace(name, link, host)
    finally:
        # Its end of the link goes with it, and the other end with that.
        _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Proxy:
    """Forwards connections to a port of the loopback address, as long as it likes; in a thread of its own.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._flows = threading.Event()
        self._flows.set()
        self._refuses = False
        self._rate: float | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def stall(self) -> None:
        """Forwards nothing any more and closes nothing."""
        self._flows.clear()

    def resume(self) -> None:
        """Forwards again, at full speed, what came in between too."""
        self._rate, self._refuses = None, False
        self._flows.set()

    def slow(self, bytes_a_second: float) -> None:
        """Forwards so much in each direction of each connection."""
        self._rate = bytes_a_second

    def sever(self) -> None:
        """Closes all connections, and each new one at once."""
        self._refuses = True
        self._loop.call_soon_threadsafe(self._abort)

    def close(self) -> None:
        """Ends it."""

        async def end() -> None:
            self._server.close()
            self._abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if not self._refuses:
                there, back = await asyncio.open_connection("127.0.0.1", self._target)
                self._writers.add(back)
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
                self._writers.discard(back)
        writer.transport.abort()
        self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1024 if self._rate else 1 << 16):
                if self._rate:
                    await asyncio.sleep(len(data) / self._rate)
                while not self._flows.is_set():
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
        writer.close()
