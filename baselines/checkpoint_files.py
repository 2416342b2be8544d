"""Reading of checkpoint files by a reader of our own: tensors and plain values are built, nothing that a file names is imported.

Understood are PyTorch's files, zipped (since 1.6) and legacy, and safetensors. Whatever else people keep beside their weights,
such as settings in classes of other packages, is read past: a ``Sealed`` stands for it. A function, or a class of Python's
library, has no place there, and its file is refused.
"""

from __future__ import annotations

import json
import math
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from baselines.pickles import PickleError, PlainUnpickler, Unfinished

_MAX_PICKLE = 1 << 27  # bytes of the part that describes a file's tensors; a large optimizer's has a few millions
_EXPANDED = 1 << 24  # elements that tensors may have more than their storages, in one file (views that repeat them)
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two values of a legacy file


class CheckpointError(ValueError):
    """A checkpoint file that is absent, unreadable, unsafe or of another model."""


class Sealed(Unfinished):
    """What stands for an object of a class that was not imported.

    kind   "package.module.Class"
    parts  what the file has put into it
    """

    def __init__(self, kind: str, *parts: Any) -> None:
        self.kind = kind
        self.parts = list(parts)

    def __repr__(self) -> str:
        return f"<{self.kind}, not loaded>"

    def __call__(self, *arguments: Any, **named: Any) -> Sealed:
        return Sealed(self.kind, self.parts, arguments, named)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.parts.append((key, value))

    def append(self, value: Any) -> None:
        self.parts.append(value)

    def extend(self, values: Any) -> None:
        self.parts.append(values)

    def finish(self, state: Any) -> Sealed:
        self.parts.append(state)
        return self


def read_checkpoint(path: str | Path, sealed: bool = True) -> Any:
    """The content of a checkpoint file, tensors on the CPU.

    sealed  objects of other packages' classes may stand in it, as ``Sealed``; else they are refused like functions

    Raises CheckpointError, naming file and entry, for a file that is missing, damaged, no checkpoint, or that asks for a
    function or for a tensor of a kind that is not read (sparse, quantised).
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise CheckpointError(f"checkpoint '{path}' does not exist")
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be read ({error.strerror})") from error
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"checkpoint '{path}' is a Git LFS pointer, not the weights: fetch it with `git lfs pull`")
    try:
        if start.startswith(b"PK"):
            content = _read_zip(path)
        elif path.suffix == ".safetensors":
            return _read_safetensors(path)
        else:
            content = _read_legacy(path)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a file may make its readers do
        raise damaged(path, error) from error
    _refuse_code(path, content, sealed)
    return content


def damaged(path: Path, error: Exception) -> CheckpointError:
    """Of what goes wrong while a file is read and is no word of ours."""
    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return CheckpointError(f"checkpoint '{path}' is not a PyTorch checkpoint or is damaged ({why}): copy or download it again")


# --- what a file may hold beside weights ------------------------------------------------------------------------------

# Of Python's library and of torch: plain values that settings hold. All other names of theirs are refused.
_HARMLESS = {
    "argparse.Namespace",
    "collections.defaultdict",
    "collections.deque",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "datetime.timezone",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "pathlib.WindowsPath",
    "types.SimpleNamespace",
    "uuid.UUID",
    *(f"builtins.{kind.__name__}" for kind in (bool, dict, float, int, list, str, tuple, type(None))),
}
_GUARDED = {*sys.stdlib_module_names, "__builtin__", "copy_reg", "nt", "numpy", "torch", "torchvision"}


def _is_harmless(kind: str) -> bool:
    """Whether it is a class that may stand beside weights: one of the list, or of a package that is no guarded one."""
    if kind in _HARMLESS:
        return True
    name = kind.rpartition(".")[2]
    return kind.partition(".")[0] not in _GUARDED and name.lstrip("_")[:1].isupper()


def _refuse_code(path: Path, content: Any, sealed: bool) -> None:
    for where, value in _entries(content):
        if isinstance(value, Sealed) and not (sealed and _is_harmless(value.kind)):
            entry = f"entry {where}" if where else "the file itself"
            raise CheckpointError(
                f"checkpoint '{path}' holds more than weights and was not loaded: {entry} is of {value.kind}, which is neither "
                "tensor nor plain value; if you trust the file, load it once where it was made and save its state dict alone: "
                "torch.save({'state_dict': model.state_dict()}, FILE)"
            )


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """(where, value) of everything in nested containers and sealed objects, each of them once."""
    todo, seen = [("", content)], set()
    while todo:
        where, value = todo.pop()
        yield where, value
        if not isinstance(value, (dict, list, tuple, set, frozenset, Sealed)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Sealed):
            todo.extend((where, part) for part in value.parts)
        elif isinstance(value, dict):
            for key, part in value.items():
                name = repr(key[:80]) if isinstance(key, str) else str(key)[:20]
                todo.extend(((f"{where}[{name}]", part), (where, key)))
        else:
            todo.extend((f"{where}[{number}]", part) for number, part in enumerate(value))


class _History(Unfinished):
    """One of mmengine's loss histories before its numbers."""

    def finish(self, state: Any) -> HistoryBuffer:
        if type(state) is not dict or type(state.get("max_length")) is not int:
            raise PickleError("a loss history has no length")
        history = HistoryBuffer(max_length=state["max_length"])
        for name in ("_log_history", "_count_history"):
            numbers = state.get(name)
            if not isinstance(numbers, np.ndarray) or numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
                raise PickleError("a loss history has no numbers")
            setattr(history, name, numbers)
        return history


def _statistic(owner: Any, name: Any) -> Any:
    """What stands for ``getattr``: a history is pickled with references to four of its own methods, which it has anyway."""
    if owner is not _History or name not in ("min", "max", "current", "mean"):
        return Sealed("builtins.getattr")
    return str(name)


# --- tensors ----------------------------------------------------------------------------------------------------------

_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_DTYPES = {name: value for name, value in _DTYPES.items() if not name.startswith(("q", "bits"))}
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_UNTYPED = object()


class _Checkpoint(PlainUnpickler):
    """One pickle of a checkpoint.

    storage  (key, bytes) -> that many bytes as a tensor
    limit    bytes of all tensors together, however they share their storages
    """

    def __init__(self, data: bytes, start: int, storage: Callable[[str, int], Tensor], limit: int) -> None:
        super().__init__(data, _MAKERS | {("torch._utils", name): getattr(self, name) for name in _REBUILDERS}, start)
        self._storage, self._left = storage, limit

    def unknown(self, module: str, name: str) -> Any:
        dotted = f"{module}.{name}"
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        return Sealed(dotted)

    def build(self, made: Any, state: Any) -> Any:
        if type(made) is OrderedDict:  # a state dict with the versions of its modules
            if type(state) is dict and set(state) == {"_metadata"} and isinstance(state["_metadata"], dict):
                made._metadata = state["_metadata"]  # type: ignore[attr-defined]
            return made
        return super().build(made, state)

    def stored(self, pid: Any) -> Any:
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or type(pid[2]) is not str:
            raise PickleError("a storage is not described as PyTorch does")
        _, kind, key, _, count = pid[:5]
        dtype = torch.uint8 if kind is _UNTYPED else kind
        if not isinstance(dtype, torch.dtype) or type(count) is not int or not 0 <= count < 1 << 50:
            raise PickleError(f"storage {key!r} has no known kind or size")
        if len(pid) == 6 and pid[5] is not None:
            raise PickleError(f"storage {key!r} is a view of another one, as in files before PyTorch 0.4")
        flat = self._storage(key, count * dtype.itemsize)
        return flat if kind is _UNTYPED else flat.view(dtype)

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        if not isinstance(storage, Tensor) or type(size) not in (tuple, torch.Size) or type(stride) is not tuple:
            raise PickleError("a tensor is not described as PyTorch does")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > 32 or not all(type(n) is int and 0 <= n < 1 << 50 for n in numbers):
            raise PickleError("a tensor has no shape")
        count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
        if count and last >= storage.numel():
            raise PickleError(f"a tensor of {count} values reaches beyond its storage of {storage.numel()}")
        if not count and math.prod(n for n in size if n) >= 1 << 50:
            raise PickleError("an empty tensor has an enormous shape")
        self._left -= count * storage.element_size()
        if self._left < 0:
            raise PickleError("its tensors are larger than the file")
        return storage.as_strided(size, stride, offset if count else 0)

    def _rebuild_tensor_v2(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        return self._rebuild_tensor(storage, offset, size, stride)

    def _rebuild_tensor_v3(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
    ) -> Tensor:
        if not isinstance(storage, Tensor) or not isinstance(dtype, torch.dtype):
            raise PickleError("a tensor is not described as PyTorch does")
        return self._rebuild_tensor(storage.view(torch.uint8).view(dtype), offset, size, stride)

    def _rebuild_parameter(self, data: Any, *_: Any) -> Any:
        if not isinstance(data, (Tensor, Sealed)):
            raise PickleError("a parameter has no tensor")
        return data


def _from_type(rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """``torch._tensor._rebuild_from_type_v2``: a tensor with attributes, which are left out."""
    if kind not in (_TENSOR, _PARAMETER) or getattr(rebuild, "__name__", "") not in _REBUILDERS or type(arguments) is not tuple:
        raise PickleError("a tensor is of a class that is not read")
    return rebuild(*arguments)


def _size(numbers: Any = ()) -> torch.Size:
    if type(numbers) not in (tuple, list) or not all(type(n) is int for n in numbers):
        raise PickleError("a torch.Size has no numbers")
    return torch.Size(numbers)


def _counter(counts: Any = None) -> Counter[Any]:
    """The milestones of a learning rate's schedule."""
    if counts is not None and (type(counts) is not dict or not all(type(n) is int for n in counts.values())):
        raise PickleError("a counter has no counts")
    return Counter(counts or {})


def _device(kind: Any, index: Any = None) -> str:
    """Its name: no device is asked for."""
    return str(kind)[:20] if index is None else f"{str(kind)[:20]}:{str(index)[:4]}"


_TENSOR, _PARAMETER = object(), object()
_REBUILDERS = (
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
)
_MAKERS: dict[tuple[str, str], Any] = {
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _UNTYPED,
    ("torch", "UntypedStorage"): _UNTYPED,
    ("torch", "Tensor"): _TENSOR,
    ("torch.nn.parameter", "Parameter"): _PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("collections", "Counter"): _counter,
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("mmengine.logging.history_buffer", "HistoryBuffer"): _History,
    ("builtins", "getattr"): _statistic,
}


def _empty(size: int) -> tuple[Tensor, memoryview]:
    """Bytes as a tensor, at an address that vector instructions like, and what a file is read into."""
    flat = torch.empty(size, dtype=torch.uint8)
    return flat, memoryview(flat.numpy())


def _fill(file: Any, into: memoryview) -> None:
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])
        if not count:
            raise EOFError("a tensor is cut off")
        done += count


def _read_zip(path: Path) -> Any:
    whole = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        names = {info.filename: info for info in archive.infolist()}
        tops = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(tops) != 1:
            raise CheckpointError(f"checkpoint '{path}' is a zip archive without PyTorch's data.pkl: it is no checkpoint")
        top = tops[0]
        if top + "constants.pkl" in names:
            raise CheckpointError(
                f"checkpoint '{path}' is a TorchScript program, not weights: save its state dict, "
                "torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
            )
        for info in names.values():  # PyTorch packs without compressing
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > whole:
                raise PickleError(f"part {info.filename} is compressed or larger than the file")
        if names[top + "data.pkl"].file_size > _MAX_PICKLE:
            raise PickleError("its data.pkl is enormous")
        if top + "byteorder" in names and archive.read(top + "byteorder") != b"little":
            raise PickleError("it was written by a machine of the other byte order")
        kept: dict[str, Tensor] = {}

        def storage(key: str, size: int) -> Tensor:
            if key not in kept:
                with archive.open(f"{top}data/{key}") as file:
                    kept[key], into = _empty(names[f"{top}data/{key}"].file_size)
                    _fill(file, into)
            if size > kept[key].numel():
                raise PickleError(f"storage {key!r} has {kept[key].numel()} bytes, not {size}")
            return kept[key][:size]

        return _content(archive.read(top + "data.pkl"), 0, storage, whole)


def _content(data: bytes, start: int, storage: Callable[[str, int], Tensor], whole: int) -> Any:
    return _Checkpoint(data, start, storage, 8 * whole + _EXPANDED).content()


def _read_legacy(path: Path) -> Any:
    """Five pickles (magic, version, machine, content, keys of the storages), then a count and the bytes of each storage."""
    whole = path.stat().st_size
    with path.open("rb") as file:
        return _legacy_content(file, whole)


def _legacy_content(file: BinaryIO, whole: int) -> Any:
    if PlainUnpickler(file.read(64)).content() != _MAGIC:
        raise PickleError("it does not begin as PyTorch's files do")
    file.seek(0)
    data = file.read(min(whole, _MAX_PICKLE))
    at, parts = 0, []
    widths: dict[str, int] = {}

    def measured(key: str, size: int) -> Tensor:
        widths[key] = max(size, widths.get(key, 0))
        return torch.empty(0, dtype=torch.uint8)

    for part in range(5):
        reader = _Sizes(data, at, measured, 0) if part == 3 else PlainUnpickler(data, start=at)
        parts.append(reader.content())
        begin, at = at, reader.end
        if part == 3:
            content_at = begin
    if parts[1] != _PROTOCOL or not isinstance(parts[2], dict) or parts[2].get("little_endian") is not True:
        raise PickleError("it is of a version or byte order that is not read")
    if not isinstance(parts[4], list) or set(parts[4]) != set(widths):
        raise PickleError("the list of its storages is not that of its tensors")
    kept: dict[str, Tensor] = {}
    file.seek(at)
    for key in parts[4]:
        file.read(8)  # the number of values, which the content has too
        if widths[key] > whole:
            raise PickleError(f"storage {key!r} is larger than the file")
        kept[key], into = _empty(widths[key])
        _fill(file, into)
    return _content(data, content_at, lambda key, size: kept[key][:size], whole)


class _Sizes(_Checkpoint):
    """A first run over a legacy file's content, which only tells the sizes of its storages."""

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        return torch.empty(0)

    def _rebuild_tensor_v3(self, *_: Any) -> Tensor:
        return torch.empty(0)


_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """github.com/huggingface/safetensors, Format: length of a JSON header, the header, the bytes of all tensors."""
    try:
        whole = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(whole - 8, 100_000_000):
                raise ValueError("it has no header")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            state, left = {}, 2 * whole
            for name, entry in header.items():
                dtype, shape, (begin, end) = _SAFETENSORS[entry["dtype"]], entry["shape"], entry["data_offsets"]
                if not all(type(n) is int and 0 <= n < 1 << 50 for n in (*shape, begin, end)) or len(shape) > 32:
                    raise ValueError(f"{name} has no shape")
                left -= end - begin
                if end - begin != math.prod(shape) * dtype.itemsize or 8 + length + end > whole or left < 0:
                    raise ValueError(f"{name} has no {shape} values of {entry['dtype']}")
                flat, into = _empty(end - begin)
                file.seek(8 + length + begin)
                _fill(file, into)
                state[name] = flat.view(dtype).reshape(shape)
            return state
    except Exception as error:  # noqa: BLE001 - as above
        raise CheckpointError(
            f"checkpoint '{path}' is not a safetensors file or is damaged ({type(error).__name__}: {str(error)[:200]})"
        ) from error
