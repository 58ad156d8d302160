"""What is done aside in a training's process: it leaves no trace there, and a SIGTERM ends it.

with interruptible(), undisturbed():
    …                                   # Interrupted, if somebody asks the process to end meanwhile
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """A SIGTERM came; what was being done is to be done again."""


class _Asked(BaseException):
    """As Interrupted, but nothing on the way takes it for a failure that it may go on from."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A SIGTERM ends what happens inside: Interrupted. Who listened to it before hears it, too."""
    if threading.current_thread() is not threading.main_thread():  # nobody sends it signals
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    asked = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if callable(before):
            before(number, frame)
        if not asked:  # a second one would only cut short the tidying up
            asked = True
            raise _Asked

    try:
        signal.signal(signal.SIGTERM, end)
        yield
    except _Asked:
        raise Interrupted("A SIGTERM ended the evaluation; it is made again.") from None
    finally:
        asked = True
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """What happens inside leaves the training as it was: random numbers of Python, numpy and torch (all devices),
    gradients, default dtype, determinism, threads, transformers' loudness."""
    import numpy as np
    import torch
    from transformers.utils import logging

    loud = logging.get_verbosity()
    numbers = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    gradients, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        torch.use_deterministic_algorithms(False)  # an evaluation needs no backward pass, and may have no such kernel
        yield
    finally:
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        torch.set_rng_state(numbers[2])
        np.random.set_state(numbers[1])
        random.setstate(numbers[0])
        logging.set_verbosity(loud)
