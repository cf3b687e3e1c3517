"""Runs one function in a process of its own, with a time limit: what it tries may crash, hang or eat memory."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

Row = dict[str, object]
PRELOADED = ("benchmarks.coverage.measure", "transformers", "diffusers")


def isolated(function: Callable[..., Row], arguments: tuple[object, ...], limit: float) -> Row:
    """What `function(*arguments)` returns; `{"error": ...}` when it raises, dies or takes more than `limit` seconds.

    The processes are copies of one that has imported the heavy packages, so that each costs no time for that.

    Args:
        function: of a module, not a lambda, that returns plain data.
        arguments: plain data.
        limit: seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            return {"error": f"not done in {limit:.0f} s"}
        return receiver.recv()
    except EOFError:
        process.join()
        return {"error": f"the process died with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _serve(sender: Connection, function: Callable[..., Row], arguments: tuple[object, ...]) -> None:
    try:
        sender.send(function(*arguments))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        sender.send({"error": f"{type(error).__name__}: {error}"[:400] + f" ({last.name}, line {last.lineno})"})
