"""Which deaths are named what: decided from what was seen of its end."""

import errno

import pytest

from diag.sweep.isolate.deaths import ProcessEnd, Reply, death_by, death_of, is_out_of_memory


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which may not be importable."""


def raised_from(cause):
    error = RuntimeError("loading failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        raised_from(MemoryError()),
    ],
    ids=str,
)
def test_running_out_of_memory_is_known_in_all_its_forms(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("Tensor on device cuda:0 is not on the expected device meta!"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("reduce max_memory to avoid running out of memory"),
        KeyError("out of memory"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_an_error_that_is_its_own_cause_is_no_endless_chain():
    error = ValueError("refused")
    error.__cause__ = error
    assert not is_out_of_memory(error)
    outer, inner = ValueError("outer"), ValueError("inner")
    outer.__cause__, inner.__cause__ = inner, outer
    assert not is_out_of_memory(outer)


def end(exitcode=0, log=b"", **seen):
    values = {"reply": None, "timed_out": False, "oom_kill": False, "seconds": 1.5, **seen}
    return ProcessEnd(ident=1, exitcode=exitcode, log=log, **values)


def test_a_value_is_no_death_even_if_the_process_ended_badly_afterwards():
    assert death_of(end(-11), Reply(0)) is None


@pytest.mark.parametrize(
    ("seen", "status", "error_type"),
    [
        (end(-9), "killed", "SIGKILL"),
        (end(-9, oom_kill=True), "out_of_memory", "SIGKILL"),
        (end(-9, timed_out=True), "timeout", "TimeoutError"),
        (end(None, timed_out=True), "timeout", "TimeoutError"),
        (end(-6, b"terminate called after throwing an instance of 'std::bad_alloc'\n"), "out_of_memory", "SIGABRT"),
        (end(-6, b"memory allocation of 4294967296 bytes failed\n"), "out_of_memory", "SIGABRT"),
        (end(-6, b"double free\n"), "killed", "SIGABRT"),
        (end(0, b"a log that says out of memory\n"), "killed", "exit 0"),
        (end(3), "killed", "exit 3"),
    ],
)
def test_a_process_without_an_answer_is_named_by_the_evidence(seen, status, error_type):
    death = death_of(seen, None)
    assert (death.status, death.error_type) == (status, error_type)


def test_an_exception_is_raised_or_out_of_memory():
    assert death_of(end(), Reply(death=death_by(ValueError("trace")))).status == "raised"
    assert death_of(end(), Reply(death=death_by(MemoryError("trace")))).status == "out_of_memory"


def test_the_text_says_what_happened_and_ends_with_the_last_lines_written():
    log = b"".join(b"line %d\n" % n for n in range(100))
    lines = death_of(end(3, log), None).text.splitlines()
    assert lines[:2] == ["The process ended with exit 3 before it gave a result.", "Last output:"]
    assert lines[-1] == "line 99"
    assert len(lines) == 32
    assert death_of(end(3), None).text.endswith("It had written nothing.")
