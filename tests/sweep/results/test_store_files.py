"""The results file among others: files that are refused, several writers, kills and full disks."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from places import HELPERS

from diag.errors import DiagError
from diag.sweep.results.store import APPLICATION, SCHEMA, Store

WRITERS = HELPERS / "store_writers.py"
SPEC = {"model": "tiny", "device_map": "auto"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


# --- files that are refused -------------------------------------------------------------------------------------------


def refusal(path, **how):
    with pytest.raises(DiagError) as caught:
        Store(path, **how)
    assert str(path) in caught.value.what
    assert caught.value.next_step
    return str(caught.value)


@pytest.mark.parametrize("said", ["not an SQLite database", "another program"])
def test_a_file_of_another_kind_and_a_database_of_another_program_are_refused_and_left_alone(path, said):
    if said == "another program":
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE customers (name)")
    else:
        path.write_text("model,status\ntiny,ok\n" * 100)
    before = path.read_bytes()
    assert said in refusal(path)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_diag_is_refused(path):
    with Store(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    text = refusal(path)
    assert f"its format is {SCHEMA + 1}" in text and "upgrade diag" in text


def test_a_damaged_file_is_refused(path):
    with Store(path) as store:
        store.save("key", SPEC, {"text": "x" * 50_000})
    data = bytearray(path.read_bytes())
    data[100:4096] = os.urandom(3996)
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_a_folder_that_is_not_there_and_a_path_that_is_a_folder_are_named(tmp_path):
    assert "make the folder first" in refusal(tmp_path / "missing" / "results.sqlite")
    assert "is a folder" in refusal(tmp_path)


def test_reading_needs_a_file_and_does_not_make_one(path):
    assert "does not exist" in refusal(path, must_exist=True)
    assert not path.exists()


def test_an_empty_file_becomes_a_results_file(path):
    path.touch()
    with Store(path) as store:
        store.save("key", SPEC, {})
    assert path.read_bytes()[68:72] == APPLICATION.to_bytes(4, "big")


def test_a_path_with_signs_that_mean_something_in_an_address_is_taken_as_it_is(tmp_path):
    path = tmp_path / "50% off? #1 & more.sqlite"
    with Store(path) as store:
        store.save("key", SPEC, {})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


AS_NOBODY = """
import os, sys
from diag.sweep.results.store import Store
if os.geteuid() == 0:  # root may write everywhere
    os.setgid(65534)
    os.setuid(65534)
print(Store(sys.argv[1], must_exist=sys.argv[2] == "read").rows())
"""


@pytest.fixture
def shared_path():
    """A saved file in a folder where others may read and not write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.sqlite"
        with Store(path) as store:
            store.save("key", SPEC, {"n": 1})
        path.parent.chmod(0o555)
        yield path
        path.parent.chmod(0o755)


def as_nobody(path, how):
    if os.name == "nt":
        pytest.skip("needs POSIX users")
    return subprocess.run([sys.executable, "-c", AS_NOBODY, path, how], capture_output=True, text=True)


@pytest.mark.parametrize("mode", [0o444, 0o666])
def test_a_place_without_write_permission_is_named_before_anything_is_run(shared_path, mode):
    shared_path.chmod(mode)
    assert "is not writable" in as_nobody(shared_path, "write").stderr


def test_a_file_that_may_only_be_read_can_be_read(shared_path):
    shared_path.chmod(0o444)
    done = as_nobody(shared_path, "read")
    assert done.stdout.strip() == "{'key': {'n': 1}}", done.stderr


def test_a_reader_changes_nothing(path):
    with Store(path) as store:
        store.save("key", SPEC, {"n": 1})
    before = path.read_bytes()
    with Store(path, must_exist=True) as store:
        assert store.rows() == {"key": {"n": 1}}
        with pytest.raises(DiagError):
            store.save("other", SPEC, {})
    assert path.read_bytes() == before


# --- others, kills and full disks -------------------------------------------------------------------------------------


def start(*arguments):
    return subprocess.Popen([sys.executable, WRITERS, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_writers_at_the_same_time_lose_nothing(path):
    writers = [start("save_some", path, name, 25) for name in "abc"]
    with Store(path) as store:
        for number in range(25):
            store.save(f"here-{number}", {"number": number}, {"status": "ok"})
            assert f"here-{number}" in store.rows()
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    with Store(path) as store:
        assert len(store.rows()) == 100


def test_a_writer_killed_at_any_moment_loses_at_most_the_row_it_was_writing(path):
    for round_ in range(4):
        writer = start("save_forever", path, f"w{round_}")
        printed = [writer.stdout.readline() for _ in range(3 + 5 * round_)]
        os.kill(writer.pid, signal.SIGKILL)
        saved = [line.strip() for line in [*printed, *writer.stdout] if line.endswith("\n")]
        writer.wait()
        with Store(path) as store:
            own = [key for key in store.rows() if key.startswith(f"w{round_}-")]
            assert own[: len(saved)] == saved
            assert len(own) <= len(saved) + 1
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_reading_works_while_another_process_writes(path):
    with Store(path):
        pass
    writer = start("save_forever", path, "w", 0.05)
    try:
        seen = 0
        for _ in range(20):
            with Store(path, must_exist=True) as store:
                rows = store.rows()
            assert len(rows) >= seen
            seen = len(rows)
            writer.stdout.readline()
        assert seen > 10
    finally:
        writer.kill()
        writer.wait()


def test_a_file_that_somebody_keeps_locked_is_named_as_that(path, monkeypatch):
    monkeypatch.setattr("diag.sweep.results.store.BUSY_SECONDS", 0.1)
    with Store(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DiagError, match="another process has held it"):
            store.save("key", SPEC, {})
        other.execute("ROLLBACK")
        store.save("key", SPEC, {"n": 1})
        assert store.rows() == {"key": {"n": 1}}
        other.close()


@pytest.fixture
def small_disk(file_system_of):
    return file_system_of("1m")


def save_until_refused(store):
    """The keys that were saved, and how the next one was refused."""
    saved = []
    try:
        while len(saved) < 100:
            store.save(f"key {len(saved)}", SPEC, {"text": f"{len(saved)}" + "x" * 40_000})
            saved.append(f"key {len(saved)}")
    except DiagError as error:
        return saved, str(error)
    return saved, "never refused"


def test_a_full_disk_is_named_costs_one_row_and_can_be_freed(small_disk):
    path = small_disk / "results.sqlite"
    with Store(path) as store:
        saved, refused = save_until_refused(store)
        assert "the disk is full" in refused
        assert "what was saved before is intact" in refused
        assert 5 < len(saved) < 30
        assert list(store.rows()) == saved
        subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
        store.save("after", SPEC, {"text": "x" * 40_000})
    with Store(path) as store:
        assert list(store.rows()) == [*saved, "after"]


LIMITED = """
import resource, sys
from diag.sweep.results.store import Store
from diag.errors import DiagError
with Store(sys.argv[1]) as store:
    store.save("small", {}, {"n": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        store.save("large", {}, {"text": "x" * 100_000})
    except DiagError as e:
        print(e)
    print(store.rows())
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_quota_is_named_too(path):
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True)
    assert "disk is full or has a quota" in done.stdout, done.stderr
    assert "{'small': {'n': 1}}" in done.stdout
