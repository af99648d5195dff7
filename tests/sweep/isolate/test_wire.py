"""Frames on a pipe arrive whole or not at all, and a tail keeps the end."""

import os
import threading

import pytest

from diag.sweep.isolate.wire import LOG_LIMIT, Tail, frame_in, read_frame, write_frame


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 300_000])
def test_a_frame_arrives_as_it_was_sent(data):
    read, write = os.pipe()
    sender = threading.Thread(target=write_frame, args=(write, data))  # more than a pipe holds, so it waits
    sender.start()
    assert read_frame(read) == data
    sender.join()
    os.close(write)
    assert read_frame(read) is None
    os.close(read)


@pytest.mark.parametrize("sent", [3, 8, 11])
def test_a_frame_that_was_cut_off_is_none(sent):
    read, write = os.pipe()
    write_frame(write, b"12345")
    whole = os.read(read, 100)
    os.write(write, whole[:sent])
    os.close(write)
    assert read_frame(read) is None
    assert frame_in(whole[:sent]) is None
    assert frame_in(whole) == b"12345"
    os.close(read)


def test_a_tail_keeps_the_end_and_tells_what_it_dropped():
    tail = Tail()
    for number in range(100_000):
        tail.add(b"%09d\n" % number)
        assert len(tail.kept) <= 2 * LOG_LIMIT + 10
    first, rest = bytes(tail).split(b"\n", 1)
    assert len(rest) == LOG_LIMIT
    assert rest.endswith(b"000099999\n")
    assert first == b"[%d bytes of output before this are not kept]" % (1_000_000 - LOG_LIMIT)


def test_a_short_tail_is_all_of_it():
    tail = Tail()
    tail.add(b"all of it")
    assert bytes(tail) == b"all of it"
