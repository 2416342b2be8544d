"""The restricted unpickler reads data of every numpy and protocol, and nothing that runs code."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from experiments.datasets.unpickle import DataError, load_infos


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("numpy_package", ["numpy.core", "numpy._core"])
def test_data_of_every_protocol_and_numpy(tmp_path: Path, protocol: int, numpy_package: str) -> None:
    content = {
        "infos": [{"a": np.arange(6.0).reshape(2, 3), "names": np.array(["car", "bus"]), "n": np.float64(2.5)}],
        "other": OrderedDict(s={1, 2}, t=(1, b"bytes", 2.0), none=None),
    }
    raw = pickle.dumps(content, protocol=protocol)
    if protocol <= 3:  # names are stored without their length there, so the bytes of numpy 2 can be made from ours
        raw = raw.replace(b"cnumpy.core.", f"c{numpy_package}.".encode())
    path = tmp_path / "infos.pkl"
    path.write_bytes(raw)
    read = load_infos(path)
    assert np.array_equal(read["infos"][0]["a"], content["infos"][0]["a"])
    assert read["infos"][0]["names"].tolist() == ["car", "bus"] and read["infos"][0]["n"] == 2.5
    assert read["other"] == content["other"] and type(read["infos"][0]["a"]) is np.ndarray


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "infos.pkl"
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps({"infos": [Evil(f"touch {mark}")]}, protocol=protocol))
        with pytest.raises(DataError, match=r"infos.pkl is not a plain data pickle: refused global '(posix|nt).system'"):
            load_infos(path)
    assert not mark.exists()


@pytest.mark.parametrize("thing", [subprocess.Popen, eval, getattr, np.load, Path("/x"), np.random.default_rng(0)])
def test_other_globals_are_refused(tmp_path: Path, thing: object) -> None:
    path = tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps(thing))
    with pytest.raises(DataError, match="refused global"):
        load_infos(path)


def test_nothing_hides_below_an_allowed_name(tmp_path: Path) -> None:
    """Protocol 4 looks up dotted names: they must not reach attributes of what is allowed."""
    path = tmp_path / "infos.pkl"
    path.write_bytes(b"\x80\x04\x8c\x08builtins\x8c\x0edict.__class__\x93.")
    with pytest.raises(DataError, match="refused global 'builtins.dict.__class__'"):
        load_infos(path)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set pickle .*infos.pkl.*RenderOcc"):
        load_infos(tmp_path / "infos.pkl", "RenderOcc publishes it")
    path = tmp_path / "infos.pkl"
    whole = pickle.dumps({"infos": [np.arange(1000)]})
    for content in (b"", b"no pickle", whole[:-200], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="infos.pkl is damaged"):
            load_infos(path)
