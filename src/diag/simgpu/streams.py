"""Streams and events of a device on which everything has happened when a call returns: they order nothing."""

from __future__ import annotations

import time

from torch.types import Device

from diag.simgpu.devices import index_of


class Event:
    """Stands where `torch.cuda.Event` stands; its time is the host's."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._recorded: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._recorded = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to `end`. RuntimeError where one of them was not recorded."""
        if self._recorded is None or end._recorded is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end._recorded - self._recorded) * 1000

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Nothing is pending."""

    def wait(self, stream: Stream | None = None) -> None:
        """Nothing is pending."""


class Stream:
    """Stands where `torch.cuda.Stream` stands, also as the context manager that `torch.cuda.stream` gives."""

    def __init__(self, device: Device = None, priority: int = 0) -> None:
        self.device_index = index_of(device)
        self.priority = priority

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Nothing is pending."""

    def wait_stream(self, stream: Stream) -> None:
        """Nothing is pending."""

    def wait_event(self, event: Event) -> None:
        """Nothing is pending."""

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.device_index == self.device_index

    def __hash__(self) -> int:
        return hash(("simgpu stream", self.device_index))
