"""Files made to attack: each ends in an error of the loader's own class; nothing runs, crashes, hangs, or changes the process."""

from __future__ import annotations

import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

SCALAR = np.float64(0).__reduce__()[0]
RECONSTRUCT = np.zeros(1).__reduce__()[0]
FROMBUFFER = np.zeros(1).__reduce_ex__(5)[0]
DEEP = 300_000


class Call:
    """Pickles as function(*arguments), then its state, items of a list, items of a dictionary."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], *state: Any) -> None:
        self.parts = (function, arguments, *state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def dtype(kind: str, *state: Any) -> Call:
    return Call(np.dtype, (kind, False, True), state) if state else Call(np.dtype, (kind, False, True))


VOID = dtype("V8", 3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
TEXT = dtype("U2", 3, "<", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
POINTER = struct.pack("<Q", 0x4141414141414141)


def array(kind: Any, shape: Any, raw: Any, fortran: Any = False) -> Call:
    return Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, fortran, raw))


def command(mark: Path) -> Call:
    return Call(os.system, (f"touch {mark}",))


def structures(mark: Path) -> dict[str, Any]:
    """By name what is pickled, for data pickles and for checkpoints alike."""
    return {
        "a command": command(mark),
        "a command below": {"a": [(1, {"b": command(mark)})]},
        "a command as state": Call(dict, (), None, None, iter([("a", command(mark))])),
        "pointer in a scalar": Call(SCALAR, (VOID, POINTER)),
        "pointer in an array": array(VOID, (1,), POINTER),
        "pointer in text": array(TEXT, (1,), POINTER),
        "pointer by frombuffer": Call(FROMBUFFER, (POINTER, VOID, (1,), "C")),
        "pointer by ndarray": Call(np.ndarray, ((1,), np.dtype("O"), POINTER)),
        "objects": np.array([None, {}], dtype=object),
        "structures": np.zeros(3, [("a", "i4"), ("b", "f8")]),
        "void": np.zeros(3, "V8"),
        "subarrays": dtype("f8", 3, "|", (np.dtype("O"), (2,)), None, None, 16, 8, 0),
        "enormous shape": array(dtype("f8"), (1 << 50,), b"12345678"),
        "enormous shape of nothing": array(dtype("f8"), (1 << 50, 0), b""),
        "negative shape": array(dtype("f8"), (-1,), b"12345678"),
        "overflowing shape": array(dtype("f8"), (1 << 32, 1 << 32), b""),
        "numbers as shape": array(dtype("f8"), "ab", b"12345678"),
        "no bytes": array(dtype("f8"), (1,), [1.0]),
        "truth values": array(dtype("b1"), (2,), b"\x01\xff"),
        "text beyond unicode": array(dtype("U1"), (1,), b"\xff\xff\xff\x7f"),
        "array without content": Call(RECONSTRUCT, (np.ndarray, (0,), b"b")),
        "other class for an array": Call(RECONSTRUCT, (dict, (0,), b"b"), (1, (1,), dtype("f8"), False, b"12345678")),
        "bytes of a length": Call(bytes, (1 << 40,)),
        "bytearray of a length": Call(bytearray, (1 << 40,)),
        "getattr chain": Call(getattr, (Call(getattr, (dict, "__subclasses__")), "__call__")),
        "getattr of a history": Call(getattr, (HistoryBuffer, "__init__")),
        "slots of a function": Call(SCALAR, (), (None, {"__doc__": "x"})),
        "codecs": Call(__import__("_codecs").encode, ("x", "rot13")),
        "eval": Call(eval, ("1",)),
        "numpy load": Call(np.load, ("x",)),
        "import": Call(__import__, ("antigravity",)),
    }


def opcodes() -> dict[str, bytes]:
    """Pickles that no pickler writes."""
    grown = b"".join(b"h" + bytes([n]) + b"h" + bytes([n + 1]) + b"a0" for n in range(200))
    doubled = b")q\x00" + b"".join(b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
    return {
        "deep key": b"\x80\x02})" + b"\x85" * DEEP + b"K\x01s.",
        "deep list": b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
        "deep dictionary": b"\x80\x02" + b"}K\x00" * DEEP + b"}" + b"s" * DEEP + b".",
        "deep member": b"\x80\x04\x8f()" + b"\x85" * DEEP + b"\x90.",
        "deep frozenset": b"\x80\x04()" + b"\x85" * DEEP + b"\x91.",
        "wide key by the memo": b"\x80\x02}" + doubled + b"K\x01s.",
        "list grown through the memo": b"\x80\x02" + b"".join(b"]q" + bytes([n]) for n in range(201)) + grown + b"h\x00.",
        "list within itself, as a tuple's part": b"\x80\x02]q\x00h\x00\x85q\x01h\x00h\x01a.",
        "memo of an enormous number": b"\x80\x02]r\xff\xff\xff\x7f.",
        "text memo of an enormous number": b"]p99999999999\n.",
        "memo that is not there": b"\x80\x02h\x07.",
        "enormous length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",
        "enormous bytearray": b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00x.",
        "enormous frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "extension": b"\x80\x02\x82\x01.",
        "old instance": b"(ios\nsystem\n.",
        "old object": b"(cos\nsystem\no.",
        "buffer of others": b"\x80\x05\x97.",
        "duplicate": b"\x80\x02]2a.",
        "persistent": b"Pevil\n.",
        "state of a class": b"\x80\x02cnumpy\ndtype\nN}X\x08\x00\x00\x00__call__K\x01s\x86b.",
        "state of a function": b"\x80\x02cnumpy.core.multiarray\nscalar\n}X\x08\x00\x00\x00__code__K\x01sb.",
        "slots of a function": b"\x80\x02cnumpy.core.multiarray\nscalar\nN}X\x07\x00\x00\x00__doc__K\x01s\x86b.",
        "item of a function": b"\x80\x02cnumpy.core.multiarray\nscalar\nK\x01K\x02s.",
        "new of a type": b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85\x81.",
        "many digits": b"I" + b"9" * 100_000 + b"\n.",
        "mark below": b"\x80\x02]((e.",
        "nothing": b"\x80\x02.",
        "dotted": b"\x80\x04\x8c\x08builtins\x8c\x0edict.__class__\x93.",
    }


def zipped(data: bytes, storage: bytes = b"\0" * 64) -> bytes:
    """``data`` as the content of a PyTorch file with one storage "0"."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/data/0", storage)
        archive.writestr("a/version", "3\n")
    return out.getvalue()


class Storage:
    """Pickles as a reference to the file's storage "0", with a number of floats."""

    def __init__(self, count: int) -> None:
        self.count = count


class StoragePickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", value.count) if isinstance(value, Storage) else None


def tensor(count: int, offset: Any, size: Any, stride: Any) -> bytes:
    out = io.BytesIO()
    rebuild = torch._utils._rebuild_tensor_v2
    StoragePickler(out, 2).dump({"state_dict": {"a": Call(rebuild, (Storage(count), offset, size, stride, False, {}))}})
    return out.getvalue()


def checkpoints(mark: Path) -> dict[str, bytes]:
    beside = {name: {"state_dict": {"a": 1}, "extra": value} for name, value in structures(mark).items()}
    found = {name: zipped(pickle.dumps(value, 2)) for name, value in beside.items()}
    found |= {f"{name}, zipped": zipped(data) for name, data in opcodes().items()}
    found |= {f"{name}, legacy": data for name, data in opcodes().items()}
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"a": b"\0" * 50_000_000}, 4))
    return found | {
        "storage of 2**50": zipped(tensor(1 << 50, 0, (2,), (1,))),
        "tensor beyond its storage": zipped(tensor(16, 0, (17,), (1,))),
        "offset beyond": zipped(tensor(16, 1 << 40, (1,), (1,))),
        "negative stride": zipped(tensor(16, 8, (4,), (-1,))),
        "tensor of 2**50 repeats": zipped(tensor(16, 0, (1 << 49,), (0,))),
        "size of text": zipped(tensor(16, 0, "ab", (1,))),
        "bomb": bomb.getvalue(),
        "cut off": zipped(tensor(16, 0, (4,), (1,)))[:-100],
        "archive of others": zipped(b"").replace(b"data.pkl", b"data.xyz"),
    }


def npy(header: str) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"12345678"


def arrays() -> dict[str, bytes]:
    objects = io.BytesIO()
    np.save(objects, np.array([None], dtype=object))
    shapes = {"2**50": "(1125899906842624,)", "2**50 of nothing": "(1125899906842624, 0)", "less than none": "(-1,)"}
    found = {f"shape {n}": npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {s}, }}") for n, s in shapes.items()}
    kinds = {"void": "'|V8'", "object": "'|O'", "structures": "[('a', '<f8')]", "structure of objects": "[('a', '|O')]"}
    found |= {n: npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': (1,), }}") for n, kind in kinds.items()}
    return found | {"pickle": objects.getvalue(), "deep header": npy("(" * 100), "text": b"hello", "nothing": b""}


def packed(member: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("semantics.npy", member)
    return out.getvalue()


WORKER = """
import builtins, faulthandler, importlib, json, os, sys
kind, folder = sys.argv[1:]
from baselines.checkpoint_files import CheckpointError, read_checkpoint
from baselines.checkpoints import read_state_dict
from experiments.datasets.unpickle import DataError, load_infos
from pathlib import Path
import numpy as np, torch
import baselines.pickles, baselines.checkpoint_files, experiments.datasets.unpickle
def state():
    modules = baselines.pickles, baselines.checkpoint_files, experiments.datasets.unpickle, np, builtins, os
    return {m.__name__: {n: (id(v), repr(getattr(v, "__code__", None)), repr(getattr(v, "__defaults__", None)),
        sorted(getattr(v, "__dict__", {}) if callable(v) else ())) for n, v in vars(m).items()
        if callable(v) and n not in ("_", "_scan_compiled")} for m in modules}
load, error = {"data": (load_infos, DataError), "checkpoint": (read_state_dict, CheckpointError)}.get(kind, (None, None))
if kind in ("npy", "npz"):
    from renderers.arrays import ArrayFileError, read_npy, read_npz
    load, error = (read_npy if kind == "npy" else read_npz), ArrayFileError
if kind == "resume":
    from experiments.cell.engine import _training_state
    load, error = _training_state, CheckpointError
before = state()
for path in sorted(Path(folder).iterdir()):
    print(path.name, end="\\t", flush=True)
    try:
        result = repr(load(path))[:80]
        print("loaded " + result, flush=True)
    except error as found:
        named = kind in ("npy", "npz") or str(path) in str(found)
        print("refused" if named else f"not named: {found}", flush=True)
    except BaseException as found:
        print(f"{type(found).__name__}: {str(found)[:200]}", flush=True)
print("changed" if state() != before else "unchanged")
"""


def outcomes(kind: str, files: dict[str, bytes], folder: Path) -> dict[str, str]:
    """What one process says of each file; the one that it did not survive is named."""
    folder.mkdir()
    names = list(files)
    for number, name in enumerate(names):
        (folder / f"{number:03d}").write_bytes(files[name])
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, kind, str(folder)], capture_output=True, text=True, timeout=1200, env=environment
    )
    lines = done.stdout.splitlines()
    said = {names[int(number)]: what for number, _, what in (line.partition("\t") for line in lines) if number.isdecimal()}
    if done.returncode:
        last = next(iter(reversed(said)), "before the first file")
        end = signal.Signals(-done.returncode).name if done.returncode < 0 else done.stderr[-500:]
        pytest.fail(f"the process ended at {last!r}: {end}")
    assert lines[-1] == "unchanged" and len(said) == len(names)
    return said


# What is odd, but plain data.
HARMLESS = {"list within itself, as a tuple's part"}


def expect_refused(said: dict[str, str]) -> None:
    assert {name: what for name, what in said.items() if what != "refused" and name not in HARMLESS} == {}


def test_data_pickles(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    files = dict(opcodes())
    for protocol in (0, 2, 4, 5):
        files |= {f"{name}, {protocol}": pickle.dumps(value, protocol) for name, value in structures(mark).items()}
    expect_refused(outcomes("data", files, tmp_path / "files"))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["checkpoint", "resume"])
def test_checkpoints(kind: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    expect_refused(outcomes(kind, checkpoints(mark), tmp_path / "files"))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays(kind: str, tmp_path: Path) -> None:
    files = arrays()
    if kind == "npz":
        files = {name: packed(data) for name, data in files.items()}
        header = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (400000000,), }")
        files["bomb"] = packed(header[:-8] + b"\0" * 400_000_000)
    expect_refused(outcomes(kind, files, tmp_path / "files"))


def test_deep_json_is_an_error_of_its_reader(tmp_path: Path) -> None:
    from baselines.checkpoint_files import CheckpointError, read_checkpoint
    from experiments.records import RecordError, load, load_quoted

    deep = "[" * 200_000
    (tmp_path / "t.json").write_text(deep)
    for read in (lambda: load(tmp_path / "t.json"), lambda: load_quoted("t", tmp_path)):
        with pytest.raises(RecordError, match="t.json"):
            read()
    header = deep.encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="a.safetensors"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_compiled_and_plain_bounds_agree() -> None:
    from baselines import pickles

    honest = pickle.dumps({"infos": [{"a": np.arange(6.0), "n": np.array(["x", "yz"]), "t": (1, 2.5, b"c")}] * 3}, 4)
    compiled: Callable[..., Any] = pickles._compiled()
    for data in (honest, *opcodes().values()):
        plain, fast = (np.zeros(8 * len(data) + 64, np.uint8) for _ in range(2))
        first = pickles._scan(memoryview(data), plain)
        second = compiled(np.frombuffer(data, np.int8), fast.view(np.int8))
        assert tuple(map(int, first)) == tuple(map(int, second))
        assert plain[: int(first[2])].tobytes() == fast[: int(second[2])].tobytes()
