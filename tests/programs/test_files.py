"""Files are whole or absent, whatever happens while they are written."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.files import (
    MARK,
    require_writable,
    subfolder,
    sweep,
    together,
    write_atomically,
)

pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def names():
    return sorted(p.name for p in Path().iterdir())


def write_both(second):
    with together() as put:
        put(Path("a.txt"), lambda path: path.write_text("new"))
        put(Path("b.txt"), second)
        assert not Path("a.txt").exists()


def fail(error):
    def write(path):
        path.write_bytes(b"half")
        raise error

    return write


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=repr
)
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failure_leaves_what_was_there(error, before):
    path = Path("a.txt")
    if before is not None:
        path.write_text(before)
    with pytest.raises(type(error)):
        write_atomically(path, fail(error))
    assert names() == ([] if before is None else ["a.txt"])
    assert before is None or path.read_text() == before


def test_a_full_disk_is_told_with_the_name_of_the_file():
    with pytest.raises(OSError, match="No space") as caught:
        write_atomically(
            Path("a.txt"), fail(OSError(errno.ENOSPC, "No space left on device"))
        )
    assert caught.value.filename == "a.txt"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(Path("missing") / "a.txt", Path.touch)
    assert caught.value.filename == str(Path("missing") / "a.txt")
    assert names() == []


def test_files_of_one_evaluation_appear_together():
    Path("b.txt").write_text("old")
    with pytest.raises(ValueError, match="no"):
        write_both(fail(ValueError("no")))
    assert names() == ["b.txt"]
    assert Path("b.txt").read_text() == "old"
    write_both(lambda path: path.write_text("new"))
    assert [Path(n).read_text() for n in names()] == ["new", "new"]


def test_a_writer_sees_the_name_and_others_the_usual_mode():
    def write(path):
        assert path.name == "a.npz"
        assert not path.exists()
        path.touch()

    write_atomically(Path("a.npz"), write)
    Path("plain").touch()
    assert stat.S_IMODE(os.stat("a.npz").st_mode) == stat.S_IMODE(
        os.stat("plain").st_mode
    )
    long = Path("a" * 250 + ".json")
    write_atomically(long, lambda path: path.write_text("{}"))
    assert long.read_text() == "{}"


def test_links_are_replaced_and_never_written_through():
    Path("outside").write_text("precious")
    Path("link").symlink_to("outside")
    write_atomically(Path("link"), lambda path: path.write_text("new"))
    assert (Path("outside").read_text(), Path("link").read_text()) == (
        "precious",
        "new",
    )
    assert not Path("link").is_symlink()
    Path("elsewhere").mkdir()
    Path("run").mkdir()
    Path("run/figures").symlink_to(Path("elsewhere").resolve())
    with pytest.raises(InputError, match=r"figures is a link to .*elsewhere"):
        subfolder(Path("run"), "figures")
    assert subfolder(Path("run"), "samples").is_dir()


def test_a_device_is_written_to_as_it_is():
    before = os.stat("/dev/null")
    write_atomically(Path("/dev/null"), lambda path: path.write_text("x"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.stat("/dev/null").st_ino == before.st_ino
    os.mkfifo("pipe")
    heard = []
    listener = threading.Thread(target=lambda: heard.append(Path("pipe").read_text()))
    listener.start()
    write_atomically(Path("pipe"), lambda path: path.write_text("heard"))
    listener.join(10)
    assert heard == ["heard"]
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)


WRITER = """
import sys, time
from pathlib import Path
from pyro_vae.foundation.files import write_atomically

def slowly(path):
    path.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)

write_atomically(Path("a.txt"), slowly)
"""


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay():
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "half\n"
        write_atomically(Path("b.txt"), Path.touch)
        left = [n for n in names() if n.startswith(MARK)]
        assert len(left) == 1
        assert (Path(left[0]) / "a.txt").read_bytes() == b"half"
    finally:
        process.kill()
        process.communicate()
    assert names() == sorted([*left, "b.txt"])
    write_atomically(Path("b.txt"), Path.touch)
    assert names() == ["b.txt"]


def test_sweeping_touches_nothing_else():
    Path(".tmp").mkdir()
    Path("elsewhere").mkdir()
    Path(f"{MARK}link").symlink_to(Path("elsewhere").resolve())
    Path(f"{MARK}of another program").mkdir()
    (Path(f"{MARK}of another program") / "work").touch()
    Path(f"{MARK}file").touch()
    Path(".tmpfile").touch()
    before = names()
    sweep(Path())
    sweep(Path("not there"))
    assert names() == before


def test_a_signal_waits_until_all_files_are_in_place(monkeypatch):
    def replace(source, target, *, move=os.replace):
        move(source, target)
        if target.name == "a.txt":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_both(Path.touch)
    assert names() == ["a.txt", "b.txt"]


def write_all(*paths):
    with together() as put:
        for path in paths:
            put(Path(path), lambda beside: beside.write_text("new"))


def no_second_names(*args, **kwargs):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("linking", [True, False])
@pytest.mark.parametrize("before", [None, "old", "a link"])
def test_where_one_cannot_be_put_in_its_place_the_others_are_taken_back(
    monkeypatch, before, linking
):
    if not linking:
        monkeypatch.setattr(os, "link", no_second_names)
    if before == "a link":
        Path("outside").write_text("precious")
        Path("a.txt").symlink_to("outside")
    elif before is not None:
        Path("a.txt").write_text(before)
    Path("b.txt").mkdir()  # where no file can be put
    there = names()
    with pytest.raises(OSError, match=r"b\.txt") as caught:
        write_all("a.txt", "b.txt")
    assert caught.value.filename == "b.txt"
    assert names() == there
    if before == "a link":
        assert Path("a.txt").is_symlink()
        assert Path("outside").read_text() == "precious"
    elif before is not None:
        assert Path("a.txt").read_text() == before


def test_a_folder_in_which_no_file_can_be_made_is_told():
    require_writable(Path())
    assert names() == []
    with pytest.raises(FileNotFoundError) as caught:
        require_writable(Path("missing"))
    assert caught.value.filename == "missing"
