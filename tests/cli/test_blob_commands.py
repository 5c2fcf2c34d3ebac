"""put, get, ls, stat and rm, as processes against a live host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pvblob.cli.app import SUMMARIES
from tests.cli.conftest import Run


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_goes_in_and_comes_out_unchanged(pvblob: Run, tmp_path: Path) -> None:
    content = bytes(range(256)) * 50_000
    (tmp_path / "model.bin").write_bytes(content)
    put = pvblob("put", "model.bin", "models/v1/", "--create", "--json")
    assert (put.returncode, put.stderr) == (0, "")
    assert lines(put.stdout)[0]["target"] == "models/v1/model.bin"
    (tmp_path / "model.bin").unlink()
    assert pvblob("get", "models/v1/model.bin").returncode == 0
    assert (tmp_path / "model.bin").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".pvblob")] == []


def test_nothing_is_made_for_a_blob_that_is_not_there(pvblob: Run, tmp_path: Path) -> None:
    pvblob("put", "-", "things/a", "--create", input="x")
    assert pvblob("get", "things/none", "below/it").returncode == 1
    assert not (tmp_path / "below").exists()


def test_standard_input_and_output_are_a_dash(pvblob: Run) -> None:
    content = b"\x00\xff" * 5_000_000
    assert pvblob("put", "-", "pipes/now", "--create", binary=True, input=content).returncode == 0
    assert pvblob("get", "pvblob://devstoreaccount1/pipes/now", "-", binary=True).stdout == content


def test_blobs_are_copied_with_what_belongs_to_them(pvblob: Run) -> None:
    pvblob("put", "-", "things/d/a", "--create", "-m", "v=1", input="one")
    assert pvblob("cp", "things/d/a", "things/copies/").returncode == 0
    assert pvblob("cp", "pvblob://devstoreaccount1/things/d/a", "things/b").returncode == 0
    for place in ("things/copies/a", "things/b"):
        assert pvblob("get", place, "-").stdout == "one"
        assert json.loads(pvblob("stat", place, "--json").stdout)["metadata"] == {"v": "1"}
    refused = pvblob("cp", "things/d/a", "things/b", "--no-overwrite")
    assert (refused.returncode, "409 BlobAlreadyExists" in refused.stderr) == (1, True)


def test_a_prefix_is_copied_with_r_and_not_into_itself(pvblob: Run) -> None:
    for name in ("d/a", "d/e/b", "other"):
        pvblob("put", "-", f"things/{name}", "--create", input=name)
    refused = pvblob("cp", "-r", "things/d", "kept/x")
    assert refused.stderr == "pvblob: container 'kept' does not exist: --create makes it\n"
    copied = pvblob("cp", "-r", "things/d", "kept/x", "--create", "--json")
    assert [row["target"] for row in lines(copied.stdout)] == ["kept/x/a", "kept/x/e/b"]
    assert [row["name"] for row in lines(pvblob("ls", "-r", "kept", "--json").stdout)] == ["x/a", "x/e/b"]
    assert pvblob("get", "kept/x/e/b", "-").stdout == "d/e/b"
    for source, target in (("things/d", "things/d/copy/"), ("things", "things"), ("things/", "things/d")):
        assert "would be copied into itself" in pvblob("cp", "-r", source, target).stderr
    assert "use -r" in pvblob("cp", "things/d/", "kept/x").stderr
    assert "404" in pvblob("cp", "things/none", "kept/").stderr


def test_a_directory_travels_with_r(pvblob: Run, tmp_path: Path) -> None:
    for name in ("a.txt", "deep/b.json", "deep/er/c"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    refused = pvblob("put", "tree", "backups/x", "--create")
    assert (refused.returncode, refused.stderr) == (1, "pvblob: tree is a directory: use -r to store what is in it\n")
    assert pvblob("put", "-r", "tree", "backups/x", "--create").returncode == 0
    assert [row["name"] for row in lines(pvblob("ls", "-r", "backups", "--json").stdout)] == [
        "x/a.txt",
        "x/deep/b.json",
        "x/deep/er/c",
    ]
    assert json.loads(pvblob("stat", "backups/x/deep/b.json", "--json").stdout)["content_type"] == "application/json"
    assert pvblob("get", "-r", "backups/x", "copy").returncode == 0
    assert (tmp_path / "copy" / "deep" / "er" / "c").read_text() == "deep/er/c"
    assert json.loads(pvblob("rm", "-r", "backups/x", "--json").stdout) == {"place": "backups/x", "deleted": 3}
    assert pvblob("ls", "backups").stdout == ""


def test_an_account_s_name_lists_its_containers(pvblob: Run) -> None:
    pvblob("put", "-", "things/a", "--create", input="x")
    assert "things" in pvblob("ls").stdout.split()
    for place in ("pvblob://devstoreaccount1", "pvblob://devstoreaccount1/"):
        assert pvblob("ls", place).stdout == pvblob("ls").stdout
    for place in ("pvblob://", "pvblob:///x", "pvblob://devstoreaccount1//x"):
        assert "write CONTAINER/BLOB" in pvblob("ls", place).stderr
    assert "write CONTAINER/BLOB" in pvblob("rm", "-r", "pvblob://devstoreaccount1").stderr


def test_a_listing_rolls_up_at_slashes(pvblob: Run) -> None:
    for name in ("a", "d/1", "d/2"):
        pvblob("put", "-", f"things/{name}", "--create", input="x")
    assert [line.split()[-1] for line in pvblob("ls", "things").stdout.splitlines()] == ["a", "d/"]
    assert [line.split()[-1] for line in pvblob("ls", "things/d/").stdout.splitlines()] == ["d/1", "d/2"]
    assert pvblob("ls", "-r", "things", "--limit", "1", "--start-from", "b").stdout.split()[-1] == "d/1"
    assert pvblob("ls").stdout == "things\n"
    assert pvblob("rm", "--container", "things").returncode == 0
    assert pvblob("ls").stdout == ""


def test_metadata_and_no_overwrite_are_obeyed(pvblob: Run) -> None:
    put = pvblob("put", "-", "things/b", "--create", "-m", "owner=me", "-m", "x=a=b", input="1")
    assert put.returncode == 0
    again = pvblob("put", "-", "things/b", "--no-overwrite", input="2")
    assert again.returncode == 1
    assert again.stderr.startswith("pvblob: 409 BlobAlreadyExists")
    assert json.loads(pvblob("stat", "things/b", "--json").stdout)["metadata"] == {"owner": "me", "x": "a=b"}
    assert "size_bytes" in pvblob("stat", "things/b").stdout


def test_errors_are_one_line_and_an_exit_code(pvblob: Run) -> None:
    for arguments, said in (
        (("get", "things/none"), "404 ContainerNotFound"),
        (("put", "-", "nowhere/b"), "container 'nowhere' does not exist: --create makes it"),
        (("put", "missing-file", "things/b", "--create"), "missing-file"),
        (("get", "things"), "use -r"),
        (("rm", "things"), "--container"),
        (("stat", "/"), "CONTAINER/BLOB"),
        (("put", "-", "things/"), "standard input has no name"),
        (("put", "-", "things/b", "-m", "novalue"), "NAME=VALUE"),
        (("get", "things/b", "-", "--json"), "cannot both"),
        (("rm", "pvblob://a/things/b", "pvblob://b/things/b"), "one account"),
    ):
        result = pvblob(*arguments, input="")
        assert (result.returncode, result.stdout) == (1, ""), arguments
        assert result.stderr.count("\n") == 1, result.stderr
        assert result.stderr.startswith("pvblob: ")
        assert said in result.stderr


def test_without_a_host_every_command_says_so_in_one_line_and_exits_with_2(pvblob: Run, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none.sock")
    for arguments in (("ls",), ("stat", "c/b"), ("get", "c/b"), ("put", "-", "c/b"), ("rm", "c/b")):
        result = pvblob(*arguments, "--socket", nowhere, input="")
        assert result.returncode == 2, result.stderr
        assert result.stderr.count("\n") == 1
        assert nowhere in result.stderr
        assert "pvblob serve" in result.stderr


def test_a_blob_name_cannot_lead_out_of_the_target_directory(pvblob: Run, tmp_path: Path) -> None:
    pvblob("put", "-", "things/x/../../escaped", "--create", input="x")
    result = pvblob("get", "-r", "things/x", "inside")
    assert result.returncode == 1
    assert "would leave inside" in result.stderr
    assert not list(tmp_path.rglob("escaped"))


def test_a_failed_download_leaves_the_old_file_and_no_rubbish(pvblob: Run, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")
    assert pvblob("get", "things/b", "b").returncode == 1
    assert (tmp_path / "b").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_reader_that_has_seen_enough_is_no_failure_to_report(
    pvblob: Run, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    pvblob("put", "-", "things/b", "--create", input="x")
    listing = start("ls", "things", PVBLOB_SOCKET=str(tmp_path / "bus.sock"))
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.close()
    assert listing.stderr.read() == ""
    assert listing.wait(30) == 1


def test_the_list_of_commands_imports_none_of_them() -> None:
    """Somebody waits for it, and one command's imports are as many as the list's."""
    code = (
        "import sys; from pvblob.cli.app import SUMMARIES, app\n"
        "try: app(['--help'])\n"
        "except SystemExit:\n"
        "  print(*(one for one in SUMMARIES if f'pvblob.cli.{one}' in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rescind" in done.stdout
    assert done.stderr.split() == []


def test_help_lists_every_command_with_examples(pvblob: Run) -> None:
    shown = pvblob("--help")
    assert shown.returncode == 0
    for command in SUMMARIES:
        assert f" {command} " in shown.stdout
        assert "Examples:" in pvblob(command, "--help").stdout
    assert "[[upstream]]" in pvblob("serve", "--help").stdout  # no markup of the terminal's
