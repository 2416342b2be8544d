"""Files are there as they were, or whole and new: whatever the disk does, and whenever a process dies."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from camera_occupancy_bench import files

ROOT = Path(__file__).parents[2]
WRITING = "import os, signal, sys; from pathlib import Path; from camera_occupancy_bench import files; "


def run(program: str, *words: str, limit: int | None = None, **streams: object) -> subprocess.CompletedProcess[str]:
    """A program of Python in its own process, that may write files of ``limit`` bytes at most."""

    def hold() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run([sys.executable, "-c", program, *words], preexec_fn=hold, cwd=ROOT, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_file_is_replaced_with_the_rights_of_a_new_one(tmp_path: Path) -> None:
    files.write(tmp_path / "made/here/note.txt", "größer\n")
    files.write(tmp_path / "made/here/note.txt", b"new")
    assert (tmp_path / "made/here/note.txt").read_bytes() == b"new"
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "made/here/note.txt").stat().st_mode == plain.stat().st_mode
    assert os.listdir(tmp_path / "made/here") == ["note.txt"]


def test_a_link_stays_one_and_long_names_are_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    files.write(tmp_path / "link", "through")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "through"
    files.write(tmp_path / ("ü" * 125 + ".txt"), "long")
    with pytest.raises(files.WriteError, match="File name too long"):
        files.write(tmp_path / ("x" * 300), "too long")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(tmp_path / {"one": "two", "two": "one"}[name])
    with pytest.raises(files.WriteError, match="symbolic links"):
        files.write(tmp_path / "one" / "file", "in a circle")


def test_a_device_is_written_to_not_replaced() -> None:
    files.write(Path("/dev/null"), "nothing")
    with pytest.raises(files.WriteError, match=r"/dev/full cannot be written \(No space left on device\); free some space"):
        files.write(Path("/dev/full"), "nothing")
    assert Path("/dev/null").is_char_device() and Path("/dev/full").is_char_device()


@pytest.mark.parametrize("size", [0, 1, 1000, 99_999])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "page.md"
    path.write_text("old")
    done = run(WRITING + "files.write(Path(sys.argv[1]), 'x' * 100000)", str(path), limit=size)
    assert done.returncode == 1 and f"{path} cannot be written (File too large); raise the limit" in done.stderr
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["page.md"]


def test_an_error_within_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("old")
    for raised in (RuntimeError("no"), KeyboardInterrupt()):
        with pytest.raises(type(raised)), files.replacing(path) as temporary:
            temporary.write_text("half")
            raise raised
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["page.md"]


def test_what_a_kill_leaves_is_removed_by_the_next_that_writes_there_and_nothing_else(tmp_path: Path) -> None:
    begin = f"{WRITING}\nwith files.replacing(Path(sys.argv[1])) as temporary:\n    temporary.write_text('half')\n"
    killed = run(begin + "    os.kill(os.getpid(), signal.SIGKILL)", str(tmp_path / "one"))
    assert killed.returncode == -signal.SIGKILL
    assert [name.endswith(".tmp") for name in os.listdir(tmp_path)] == [True]
    at_work = subprocess.Popen(
        [sys.executable, "-c", begin + "    print('begun', flush=True); sys.stdin.read()", str(tmp_path / "two")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert at_work.stdout is not None and at_work.stdout.readline() == b"begun\n"
    assert len(os.listdir(tmp_path)) == 1  # of the one at work
    (tmp_path / "kept.tmp").touch()
    (tmp_path / ".tmp-folder.tmp").mkdir()
    assert run(WRITING + "files.write(Path(sys.argv[1]), '')", str(tmp_path / "three")).returncode == 0
    at_work.communicate()
    assert at_work.returncode == 0
    assert sorted(os.listdir(tmp_path)) == [".tmp-folder.tmp", "kept.tmp", "three", "two"]
    assert (tmp_path / "two").read_text() == "half"


SAYING = (
    "import sys; from camera_occupancy_bench.commandline import finish\n"
    "def main():\n"
    "    for line in range(20000): print(line)\n"
    "    print('the reason', file=sys.stderr)\n"
    "    return int(sys.argv[1])\n"
    "sys.exit(finish(main))"
)


@pytest.mark.parametrize("code", ["0", "3"])
def test_a_command_outlives_its_reader(code: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SAYING, code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "the reason\n" and process.wait() == int(code)


@pytest.mark.parametrize(("code", "ends"), [("0", 1), ("3", 3)])
def test_a_full_device_is_told_and_no_success(code: str, ends: int) -> None:
    with open("/dev/full", "w") as full:
        done = run(SAYING, code, stdout=full)
        assert done.stderr.splitlines() == [
            "the reason",
            "error: what this command said is lost in part (No space left on device)",
        ]
        assert done.returncode == ends
        assert run(SAYING, code, stdout=full, stderr=full).returncode == ends
