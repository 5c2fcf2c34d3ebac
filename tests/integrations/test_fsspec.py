"""The fsspec file system over a real channel; fsspec's own abstract suite judges what all file systems share."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fsspec
import numpy
import pytest
from fsspec.tests import abstract

import pvblob
from pvblob.client.bodies import BLOCK_BYTES
from pvblob.integrations.fsspec import PvblobFileSystem


@pytest.fixture
def connected(live_host: Any) -> Iterator[PvblobFileSystem]:
    """A file system of its own; the container `con` exists."""
    made = PvblobFileSystem(str(live_host.socket_path), skip_instance_cache=True)
    made.mkdir("con")
    yield made
    made.client.close()


@pytest.fixture
def fs(connected: PvblobFileSystem) -> PvblobFileSystem:
    return connected


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, connected: PvblobFileSystem) -> PvblobFileSystem:
        return connected

    @pytest.fixture
    def fs_path(self) -> str:
        return "con/dir"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass


# ---- names ----------------------------------------------------------------------------------------------------------


def test_a_url_names_account_container_and_blob_as_on_the_command_line(live_host: Any) -> None:
    options = {"socket_path": str(live_host.socket_path)}
    fsspec.url_to_fs("pvblob://acct/con", **options)[0].mkdir("con")
    with fsspec.open("pvblob://acct/con/dir/ü 100%25.txt", "w", **options) as file:
        file.write("text\n")
    found, path = fsspec.url_to_fs("pvblob://acct/con/dir/ü 100%25.txt", **options)
    assert (found.account, path) == ("acct", "con/dir/ü 100%25.txt")
    assert found.unstrip_protocol(path) == "pvblob://acct/con/dir/ü 100%25.txt"
    assert found.cat(path) == b"text\n"
    assert fsspec.url_to_fs("pvblob://other/con", **options)[0].ls("") == []


# What `install` changes is the whole process's, so a process of its own is asked.
ADLFS_PROGRAM = """
import sys, fsspec
from pvblob.integrations.fsspec_abfs import install
install()
options = {"socket_path": sys.argv[1], "account_key": "not used", "anon": False}
fs, path = fsspec.url_to_fs("abfs://con@contoso.dfs.core.windows.net/dir/a", **options)
fs.mkdir("con")
with fsspec.open("abfs://con/dir/a", "wb", account_name="contoso", **options) as file:
    file.write(b"data")
again = fsspec.filesystem("az", connection_string="AccountName=contoso;AccountKey=x==", **options)
with fsspec.open(fs.unstrip_protocol(path), **options) as file:
    print(type(fs).__name__, fs.account, path, again.find("az://con"), file.read())
"""


def test_programs_written_for_adlfs_run_through_the_host_after_install(live_host: Any) -> None:
    command = [sys.executable, "-W", "error", "-c", ADLFS_PROGRAM, str(live_host.socket_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.stdout, ran.stderr) == ("AbfsFileSystem contoso con/dir/a ['con/dir/a'] b'data'\n", "")


# ---- directories ----------------------------------------------------------------------------------------------------


def test_directories_are_the_common_beginnings_of_names(fs: PvblobFileSystem) -> None:
    for name in ("a/x", "a/b/y", "a.txt", "z"):
        fs.pipe(f"con/{name}", name.encode())
    assert fs.ls("", detail=False) == ["con"]
    assert sorted(fs.ls("con", detail=False)) == ["con/a", "con/a.txt", "con/z"]
    assert [(one["name"], one["type"], one["size"]) for one in fs.ls("con/a")] == [
        ("con/a/b", "directory", 0),
        ("con/a/x", "file", 3),
    ]
    assert fs.ls("con/z", detail=False) == ["con/z"]
    assert fs.find("con/a") == ["con/a/b/y", "con/a/x"]
    assert fs.glob("con/**/y") == ["con/a/b/y"]
    assert (fs.isdir("con/a"), fs.isdir("con/a.txt"), fs.exists("con/none"), fs.isdir("con")) == (
        True,
        False,
        False,
        True,
    )
    assert fs.du("con") == sum(len(name) for name in ("a/x", "a/b/y", "a.txt", "z"))
    with pytest.raises(FileNotFoundError):
        fs.ls("con/none")
    with pytest.raises(FileNotFoundError):
        fs.info("none")


def test_marks_that_other_tools_leave_are_directories_and_go_with_them(fs: PvblobFileSystem) -> None:
    fs.client.put("con", "slash/", b"")
    fs.client.put("con", "folder", b"", metadata={"hdi_isfolder": "true"})
    fs.pipe("con/folder/x", b"1")
    assert [(one["name"], one["type"]) for one in fs.ls("con")] == [
        ("con/folder", "directory"),
        ("con/slash", "directory"),
    ]
    assert fs.find("con") == ["con/folder/x"]
    fs.rm("con/folder", recursive=True)
    fs.rm("con/slash", recursive=True)
    assert list(fs.client.list("con")) == []


def test_rm_takes_files_and_patterns_and_trees_but_no_directory_by_mistake(fs: PvblobFileSystem) -> None:
    for name in ("a/x", "a/y", "b1", "b2", "c"):
        fs.pipe(f"con/{name}", b"1")
    with pytest.raises(IsADirectoryError, match="recursive"):
        fs.rm("con/a")
    with pytest.raises(FileNotFoundError):
        fs.rm("con/none")
    with pytest.raises(ValueError, match="one by one"):
        fs.rm("", recursive=True)
    fs.rm("con/b*")
    assert fs.find("con") == ["con/a/x", "con/a/y", "con/c"]
    with pytest.raises(OSError, match="holds blobs"):
        fs.rmdir("con")
    fs.rm("con", recursive=True)
    assert fs.ls("") == []


# ---- reading --------------------------------------------------------------------------------------------------------


def test_ranges_are_sliced_as_python_slices(fs: PvblobFileSystem) -> None:
    data = bytes(range(100))
    fs.pipe("con/a", data)
    for start, end in (
        (None, None),
        (10, 20),
        (10, None),
        (-10, None),
        (-10, -5),
        (0, 0),
        (20, 10),
        (90, 200),
        (100, 110),
    ):
        assert fs.cat_file("con/a", start, end) == data[start:end], (start, end)
    with pytest.raises(FileNotFoundError):
        fs.cat_file("con/none")
    with pytest.raises(IsADirectoryError):
        fs.cat_file("con")


def test_many_ranges_are_read_together_and_an_error_stays_in_its_place(fs: PvblobFileSystem) -> None:
    fs.mkdir("other")
    fs.pipe({"con/a": b"0123456789", "other/b": b"abcdef"})
    paths, starts, ends = ["con/a", "con/none", "other/b", "con/a", "con/a"], [2, 0, 1, -3, 50], [5, 4, 4, None, 60]
    got = fs.cat_ranges(paths, starts, ends)
    assert (got[0], got[2], got[3], got[4]) == (b"234", b"bcd", b"789", b"")
    assert isinstance(got[1], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, starts, ends, on_error="raise")
    assert fs.cat_ranges(["con/a"] * 3, 0, 2) == [b"01"] * 3


@pytest.mark.parametrize("cache_type", ["readahead", "none", "bytes", "all", "blockcache"])
def test_a_file_reads_what_was_stored_in_steps_of_any_size(fs: PvblobFileSystem, cache_type: str) -> None:
    data = os.urandom(3 << 20)
    fs.pipe("con/a", data)
    with fs.open("con/a", "rb", cache_type=cache_type) as file:
        assert file.read(10) == data[:10]
        assert file.read(2 << 20) == data[10 : 10 + (2 << 20)]
        file.seek(-5, 2)
        assert (file.read(), file.read(1)) == (data[-5:], b"")
        file.seek(7)
        into = bytearray(2 << 20)
        assert (file.readinto(into), into) == (len(into), data[7 : 7 + len(into)])
        file.seek(len(data) - 3)
        assert file.readinto(into) == 3
        file.seek(0)
        assert file.read() == data


def test_lines_and_numpy_arrays_are_read_from_files(fs: PvblobFileSystem) -> None:
    lines = [f"{number} line\n".encode() for number in range(5000)]
    fs.pipe("con/lines", b"".join(lines))
    with fs.open("con/lines") as file:
        assert list(file) == lines
    with fs.open("con/lines", "r") as text:
        assert sum(1 for _ in text) == 5000
    array = numpy.arange(300_000, dtype="<f8")
    with fs.open("con/a.npy", "wb") as file:
        numpy.save(file, array)
    with fs.open("con/a.npy", "rb") as file:
        assert numpy.array_equal(numpy.load(file), array)


def test_a_file_replaced_while_it_is_read_is_an_error_not_a_mixture(fs: PvblobFileSystem) -> None:
    fs.pipe("con/a", bytes(3 << 20))
    with fs.open("con/a", "rb") as file:
        file.read(10)
        fs.pipe("con/a", os.urandom(3 << 20))
        with pytest.raises(pvblob.PreconditionFailed):
            file.read(2 << 20)


# ---- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 5])
@pytest.mark.parametrize("step_bytes", [1 << 20, 32 << 20])
def test_a_file_is_stored_when_it_is_closed(fs: PvblobFileSystem, size_bytes: int, step_bytes: int) -> None:
    data = os.urandom(size_bytes)
    with fs.open("con/a", "wb", content_type="x/y", metadata={"k": "v"}) as file:
        for start in range(0, size_bytes, step_bytes):
            file.write(memoryview(data)[start : start + step_bytes])
        assert not fs.exists("con/a")
    assert fs.cat("con/a") == data
    known = fs.info("con/a")
    assert (known["size"], known["content_type"], known["metadata"]) == (size_bytes, "x/y", {"k": "v"})


def test_a_with_that_fails_leaves_the_old_blob(fs: PvblobFileSystem) -> None:
    fs.pipe("con/a", b"old")

    def fail() -> None:
        with fs.open("con/a", "wb") as file:
            file.write(bytes(2 * BLOCK_BYTES))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert fs.cat("con/a") == b"old"


def test_a_transaction_stores_all_its_files_or_none(fs: PvblobFileSystem) -> None:
    def store() -> None:
        with fs.transaction:
            for name in ("a", "b"):
                with fs.open(f"con/{name}", "wb") as file:
                    file.write(name.encode())
            assert fs.find("con") == []
            if failing:
                raise RuntimeError("half way")

    failing = True
    with pytest.raises(RuntimeError, match="half way"):
        store()
    assert fs.find("con") == []
    failing = False
    store()
    assert fs.cat(["con/a", "con/b"]) == {"con/a": b"a", "con/b": b"b"}


def test_a_file_opened_to_append_adds_to_an_append_blob(fs: PvblobFileSystem) -> None:
    for number in range(3):
        with fs.open("con/log", "ab") as file:
            assert file.tell() == 7 * number
            file.write(b"line %d\n" % number)
    with fs.open("con/log", "at", encoding="utf-8") as text:
        text.write("ü")
    assert fs.cat("con/log") == b"line 0\nline 1\nline 2\n\xc3\xbc"
    with fs.open("con/large", "ab", block_size=1000) as file:
        for _ in range(10):
            file.write(b"x" * 999)
    assert fs.size("con/large") == 9990
    assert fs.client.stat("con", "large").blob_type == "AppendBlob"
    with fs.open("con/large", "ab"):
        pass
    assert fs.size("con/large") == 9990


def test_what_cannot_be_appended_to_says_so(fs: PvblobFileSystem) -> None:
    fs.pipe("con/a", b"1")
    with pytest.raises(pvblob.Conflict, match="InvalidBlobType"), fs.open("con/a", "ab") as file:
        file.write(b"2")
    assert fs.cat("con/a") == b"1"
    with pytest.raises(NotImplementedError, match="transaction"), fs.transaction:
        fs.open("con/b", "ab")
    with pytest.raises(NotImplementedError, match="'r\\+b'"):
        fs.open("con/a", "r+b")


def test_local_files_go_in_and_out_with_their_progress(fs: PvblobFileSystem, tmp_path: Path) -> None:
    data = os.urandom(BLOCK_BYTES + 3)
    local, back = tmp_path / "local", tmp_path / "made" / "back"
    local.write_bytes(data)
    put, got = fsspec.Callback(), fsspec.Callback()
    fs.put_file(local, "con/dir/a", callback=put)
    fs.get_file("con/dir/a", back, callback=got)
    assert back.read_bytes() == data
    assert (put.size, put.value, got.size, got.value) == (len(data),) * 4
    buffer = io.BytesIO()
    fs.get_file("con/dir/a", buffer)
    assert buffer.getvalue() == data
    with pytest.raises(FileExistsError):
        fs.put_file(local, "con/dir/a", mode="create")


# ---- processes ------------------------------------------------------------------------------------------------------


def read(fs: PvblobFileSystem, path: str) -> bytes:
    return fs.cat_file(path)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_file_system_and_its_open_files_go_to_other_processes(fs: PvblobFileSystem, method: str) -> None:
    fs.pipe("con/a", b"0123456789")
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        assert pool.submit(read, fs, "con/a").result() == b"0123456789"
    with fs.open("con/a") as file:
        file.read(3)
        with pickle.loads(pickle.dumps(file)) as other:
            assert other.read() == b"3456789"
