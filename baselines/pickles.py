"""Pickles as plain data: nothing that a pickle names is imported or called, and its size is bounded before anything is built.

A pickle is a program for a small machine. It is first read without being run (``_scan``): nesting, the keys of dictionaries,
the use of the memo and all lengths are held to bounds there, and every instruction that would reach into an object is
rewritten to one that asks this module. What the C machine of ``pickle`` then runs can build Python's own containers and
values, and call the functions that stand here for what the pickle names, and ``PlainUnpickler.persistent_load``; it sets no
attribute and makes an instance of no class.

Arrays are rebuilt from their bytes for a short list of plain kinds: bool, integers, floats, complex numbers, fixed-length text
and bytes. Light: numpy, and numba for files of more than half a megabyte; no torch.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 100  # containers within containers; real files have less than ten
MAX_KEY = 32  # parts of a key, its own parts counted in
MAX_UNUSUAL_KEYS = 10_000  # keys in one file that are neither text nor a number of 64 bits: they can be made to collide
MAX_EMPTY = 1 << 20  # the dimensions other than 0 of an array without bytes, multiplied

_COMPILED_FROM = 1 << 19  # bytes; a pickle that ends before is not worth the compiling


class PickleError(ValueError):
    """A pickle that is damaged, too deep, or no plain data; the message does not know the file's name."""


class RefusedGlobal(PickleError):
    """A pickle names something that is no plain data."""


class Unfinished:
    """An object whose content comes by a later instruction, which ``finish`` takes."""

    def finish(self, state: Any) -> Any:
        raise NotImplementedError


class PlainUnpickler(pickle.Unpickler):
    """Runs one pickle of ``data`` and returns its content from ``content()``; PickleError for all that is no plain data.

    makers  (module, name) -> what stands for it, beyond Python's own values and numpy's arrays
    start   where in ``data`` the pickle begins; ``end`` is where it ends
    """

    def __init__(self, data: bytes, makers: Mapping[tuple[str, str], Any] | None = None, start: int = 0) -> None:
        program, self.end = _rewritten(data, start)
        # Read in large pieces: BytesIO itself is asked for every instruction.
        super().__init__(io.BufferedReader(io.BytesIO(program), 1 << 17))  # type: ignore[arg-type]
        self._makers = _PLAIN | (makers or {})
        self._bytes_left = 2 * len(data) + (1 << 20)  # arrays may share bytes in a file, not here
        self._open = 0

    def content(self) -> Any:
        try:
            loaded = super().load()
        except PickleError:
            raise
        except (RecursionError, MemoryError) as error:
            raise PickleError(f"it is too large or too deep ({type(error).__name__})") from None
        except Exception as error:  # noqa: BLE001 - whatever instructions in a wrong order lead to
            raise PickleError(f"{type(error).__name__}: {error}") from error
        if self._open:
            raise PickleError("it has arrays without content")
        return loaded

    def find_class(self, module: str, name: str) -> Any:
        for prefix in ("numpy.core.", "numpy._core."):  # numpy 1 and numpy 2
            module = "numpy:" + module.removeprefix(prefix) if module.startswith(prefix) else module
        module = _PYTHON2.get(module, module)
        if (module, name) in self._makers:
            made = self._makers[module, name]
        elif (module, name) in _ARRAYS:
            made = getattr(self, _ARRAYS[module, name])
        else:
            made = self.unknown(module.replace("numpy:", "numpy.core."), name)
        return made

    def unknown(self, module: str, name: str) -> Any:
        """What stands for a global that has no maker; this one raises RefusedGlobal."""
        raise RefusedGlobal(f"global '{module}.{name}'")

    def persistent_load(self, pid: Any) -> Any:
        if type(pid) is tuple and len(pid) == 2:  # an object and its state
            made, state = pid
            if made is not _ARRAY:
                return self.build(made, state)
            if type(state) is not tuple or len(state) != 5:
                raise PickleError("the state of an array is not numpy's")
            self._open -= 1
            return self._filled(state[1], state[2], state[3], state[4])
        if type(pid) is tuple and len(pid) == 3:  # a class, arguments and named arguments
            return pid[0](*pid[1], **pid[2])
        return self.stored(pid)

    def build(self, made: Any, state: Any) -> Any:
        """The object ``made`` with its state."""
        if isinstance(made, Unfinished):
            return made.finish(state)
        raise PickleError(f"it sets attributes of a {type(made).__name__}")

    def stored(self, pid: Any) -> Any:
        """What a persistent id stands for."""
        raise PickleError("it refers to data outside of itself")

    # numpy's functions

    def _reconstruct(self, kind: Any, shape: Any, letter: Any) -> _Array:
        self._open += 1
        return _ARRAY

    def _scalar(self, kind: Any, raw: Any = b"") -> Any:
        return self._filled((1,), kind, False, raw)[0]

    def _frombuffer(self, raw: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
        return self._filled(shape, kind, order == "F", raw)

    def _filled(self, shape: Any, kind: Any, fortran: Any, raw: Any) -> NDArray[Any]:
        """An array of its own memory, writable, from its bytes."""
        if type(kind) is not _Kind:
            raise PickleError("an array has no kind")
        if type(raw) is not bytes and type(raw) is not bytearray:
            raise PickleError(f"an array of {kind.dtype} holds a {type(raw).__name__}, no bytes")
        if type(shape) is not tuple or len(shape) > 32:
            raise PickleError("an array has no shape")
        size = kind.size
        for n in shape:
            if type(n) is not int or not 0 <= n < 1 << 62:
                raise PickleError("an array has no shape")
            size *= n
        if size != len(raw):
            raise PickleError(f"an array {_short(shape)} of {kind.dtype} has {len(raw)} bytes, not {size}")
        if not size and math.prod(n for n in shape if n) > MAX_EMPTY:
            raise PickleError(f"an array without content has the shape {_short(shape)}")
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise PickleError("its arrays are larger than the file")
        if kind.letter == "b" and raw.strip(b"\0\1"):
            raise PickleError("an array of truth values holds others")
        if kind.letter == "U" and size and np.frombuffer(raw, kind.dtype.byteorder.replace("=", "<") + "u4").max() > 0x10FFFF:
            raise PickleError("an array of text holds no text")
        if not kind.size:  # text without room for any, which numpy makes room for
            return np.zeros(shape, kind.dtype)
        return np.ndarray(shape, kind.dtype, raw, 0, None, "F" if fortran else "C").copy("K")


def _short(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape[:8])[:80] or "()"


class _Array:
    """An array before its content."""


_ARRAY = _Array()


class _Kind(Unfinished):
    """What stands for ``numpy.dtype``: one of the plain kinds, in one byte order."""

    __slots__ = ("dtype", "letter", "size")
    _NAMES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6})")

    def __init__(self, name: Any, align: Any = False, copy: Any = True) -> None:
        if type(name) is not str or not self._NAMES.fullmatch(name):
            raise PickleError(f"it holds an array of kind {str(name)[:40]!r}, which is no plain number or text")
        self._set(np.dtype(name))

    def _set(self, dtype: np.dtype[Any]) -> None:
        self.dtype, self.letter, self.size = dtype, dtype.kind, dtype.itemsize

    def finish(self, state: Any) -> _Kind:
        """Takes the byte order of numpy's state (version, order, subtype, names, fields, size, alignment, flags)."""
        if type(state) is not tuple or len(state) not in (8, 9) or any(part is not None for part in state[2:5]):
            raise PickleError("it holds an array of structures, which is no plain data")
        order = state[1]
        if type(order) is not str or order not in ("<", ">", "|", "="):
            raise PickleError("an array has no byte order")
        finished = _Kind.__new__(_Kind)
        finished._set(self.dtype if order in ("|", "=") else self.dtype.newbyteorder(order))
        return finished


_ARRAYS = {
    ("numpy:multiarray", "_reconstruct"): "_reconstruct",
    ("numpy:multiarray", "scalar"): "_scalar",
    ("numpy:numeric", "_frombuffer"): "_frombuffer",
}

# --- Python's own values ----------------------------------------------------------------------------------------------


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """``_codecs.encode`` as arrays and bytes in protocols 0 to 2 use it."""
    if type(text) is not str or encoding != "latin1":
        raise PickleError(f"text encoding {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _bytes(content: Any = b"", encoding: Any = "latin-1") -> bytes:
    """A number would be a length, whatever the file has."""
    if type(content) is str and encoding == "latin-1":
        return content.encode("latin1")
    if type(content) is list and all(type(n) is int for n in content):
        return bytes(content)
    if type(content) not in (bytes, bytearray):
        raise PickleError("it makes bytes of something else")
    return bytes(content)


def _members(content: Any) -> Any:
    if type(content) is not list or not all(type(m) in (str, bytes, int, float, bool, type(None)) for m in content):
        raise PickleError("it makes a set of something else than text and numbers")
    if any(type(m) is int and m.bit_length() > 64 for m in content):
        raise PickleError("it makes a set of enormous numbers")
    return content


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise PickleError("a complex number has no two parts")
    return complex(real, imaginary)


def _slice(*parts: Any) -> slice:
    if not all(part is None or type(part) is int for part in parts):
        raise PickleError("a slice has other parts than numbers")
    return slice(*parts)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    """Empty: the items follow, or, in protocols 0 and 1 of Python 2, come as a list of pairs."""
    ordered: OrderedDict[Any, Any] = OrderedDict()
    for pair in items if type(items) is list else [items] if items else []:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise PickleError("an ordered dictionary has no pairs")
        _members([pair[0]])
        ordered[pair[0]] = pair[1]
    return ordered


def _reconstructor(made: Any, base: Any, state: Any) -> Any:
    """``copyreg._reconstructor`` as protocols 0 and 1 make objects with it."""
    if not callable(made) or state is not None:
        raise PickleError("it makes an object of an unknown class")
    return made()


_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_PLAIN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): lambda *_: _no_array(),
    ("numpy", "dtype"): _Kind,
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _latin1,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("builtins", "object"): lambda *_: _no_array(),
    ("builtins", "bytearray"): lambda *parts: bytearray(_bytes(*parts)),
    ("builtins", "bytes"): _bytes,
    ("builtins", "complex"): _complex,
    ("builtins", "slice"): _slice,
    ("builtins", "set"): lambda content=None: set(_members([] if content is None else content)),
    ("builtins", "frozenset"): lambda content=None: frozenset(_members([] if content is None else content)),
}


def _no_array() -> Any:
    raise PickleError("it makes an object in a way that no data needs")


# --- the bounds, before anything is built -----------------------------------------------------------------------------

_TOO_SHORT = 1
_REASONS = {
    _TOO_SHORT: "it ends too early or its instructions are in disorder",
    2: f"it is nested more than {MAX_DEPTH} deep",
    3: "a key of a dictionary or a member of a set is no text and no number",
    4: "it has an instruction that no data needs",
    5: "it refers to an object that is not there",
    6: "a number has too many digits",
}

# Bytes behind an instruction that pushes a plain value, and bytes of the length that stands before one; -1 elsewhere.
_FIXED = np.full(256, -1, np.int8)
for _code, _count in ((b"N", 0), (b"\x88", 0), (b"\x89", 0), (b"J", 4), (b"K", 1), (b"M", 2), (b"G", 8)):
    _FIXED[_code[0]] = _count
_PREFIX = np.full(256, -1, np.int8)
for _code, _count in zip(
    (b"\x8c", b"X", b"\x8d", b"C", b"B", b"\x8e", b"\x96", b"U", b"T", b"\x8a", b"\x8b"),
    (1, 4, 8, 1, 4, 8, 8, 1, 4, 1, 4),
    strict=True,
):
    _PREFIX[_code[0]] = _count


def _rewritten(data: bytes, start: int) -> tuple[bytes, int]:
    """The pickle at ``start`` with objects' instructions turned to calls of ours, and where it ended; raises PickleError."""
    if len(data) - start >= 1 << 32:
        raise PickleError("it is larger than 4 GiB")
    read = memoryview(data)[start:]
    grown = 6 * data.count(b"b", start) + 2 * data.count(b"\x92", start)
    out = np.empty(len(read) + grown, np.uint8)
    problem, position, length = _scan(read[:_COMPILED_FROM], out)
    if problem == _TOO_SHORT and len(read) > _COMPILED_FROM:
        problem, position, length = _compiled()(np.frombuffer(read, np.int8), out.view(np.int8))
    if problem:
        raise PickleError(f"{_REASONS[int(problem)]} (byte {start + int(position)})")
    return out[: int(length)].tobytes(), start + int(position)


def _compiled() -> Callable[..., tuple[int, int, int]]:
    from numba import njit

    global _scan_compiled
    if _scan_compiled is None:
        _scan_compiled = njit(cache=True)(_scan)
    return _scan_compiled


_scan_compiled: Any = None


def _scan(data: Any, out: NDArray[np.int8] | NDArray[np.uint8]) -> tuple[int, int, int]:
    """Follows a pickle's instructions over what is known of the stack -> (number of a reason or 0, position, bytes in ``out``).

    Of each value on the stack and in the memo an integer is kept: bits 0 to 2, whether items may still go in as to a list, a
    dictionary, a set; from bit 3, its depth; from bit 10, its weight as a key (1: text, a number; tuples: the sum of their
    parts); from bit 18, its number in the memo + 1. Written so that numba compiles it, which takes the bytes as an array of int8.
    """
    end = len(data)
    stack = np.zeros(256, np.int64)
    marks = np.zeros(64, np.int64)
    memo = np.zeros(256, np.int64)
    top, marked, memoised, unusual = 0, 0, 0, 0
    i, copied, o = 0, 0, 0
    while True:
        if i >= end:
            return 1, i, 0
        at = i
        op = data[i] & 255
        i += 1
        base = int(marks[marked - 1]) if marked else 0
        if top + 2 >= stack.size:
            larger = np.zeros(2 * stack.size, np.int64)
            larger[:top] = stack[:top]
            stack = larger
        fixed, prefix = int(_FIXED[op]), int(_PREFIX[op])
        if fixed >= 0:
            i += fixed
            stack[top] = 1 << 10
            top += 1
        elif prefix >= 0:
            if i + prefix > end:
                return 1, at, 0
            length = 0
            for k in range(prefix):
                if k < 7:
                    length |= (data[i + k] & 255) << (8 * k)
            if (prefix == 8 and data[i + 7] != 0) or length > end - i - prefix:
                return 1, at, 0
            i += prefix + length
            stack[top] = (2 if (op == 0x8A or op == 0x8B) and length > 8 else 1) << 10
            top += 1
        elif op == 0x71 or op == 0x72 or op == 0x94 or op == 0x70:  # BINPUT, LONG_BINPUT, MEMOIZE, PUT
            number = memoised
            if op == 0x71 or op == 0x72:
                size = 1 if op == 0x71 else 4
                if i + size > end:
                    return 1, at, 0
                number = 0
                for k in range(size):
                    number |= (data[i + k] & 255) << (8 * k)
                i += size
            elif op == 0x70:
                number = 0
                while i < end and 48 <= (data[i] & 255) < 58 and number < 1 << 32:
                    number = 10 * number + (data[i] & 255) - 48
                    i += 1
                if i >= end or (data[i] & 255) != 10:
                    return 1, at, 0
                i += 1
            # Every object in the memo took a byte of the file; the machine keeps room for as many as the highest number.
            if number > at or top == base or int(stack[top - 1]) >> 18:
                return 5, at, 0
            if number >= memo.size:
                larger = np.zeros(2 * number + 2, np.int64)
                larger[: memo.size] = memo
                memo = larger
            memoised += 1 if memo[number] == 0 else 0
            stack[top - 1] = int(stack[top - 1]) & 0x3FFFF | (number + 1) << 18
            memo[number] = stack[top - 1]
        elif op == 0x68 or op == 0x6A or op == 0x67:  # BINGET, LONG_BINGET, GET
            number = 0
            if op != 0x67:
                size = 1 if op == 0x68 else 4
                if i + size > end:
                    return 1, at, 0
                for k in range(size):
                    number |= (data[i + k] & 255) << (8 * k)
                i += size
            else:
                while i < end and 48 <= (data[i] & 255) < 58 and number < 1 << 32:
                    number = 10 * number + (data[i] & 255) - 48
                    i += 1
                if i >= end or (data[i] & 255) != 10:
                    return 1, at, 0
                i += 1
            if number >= memo.size or memo[number] == 0:
                return 5, at, 0
            stack[top] = int(memo[number]) & ~7  # it is finished: what lies in two places takes no more items
            top += 1
        elif op == 0x28:  # MARK
            if marked >= marks.size:
                larger = np.zeros(2 * marks.size, np.int64)
                larger[:marked] = marks[:marked]
                marks = larger
            marks[marked] = top
            marked += 1
        elif op == 0x85 or op == 0x86 or op == 0x87 or op == 0x29 or op == 0x74 or op == 0x6C or op == 0x64 or op == 0x91:
            # TUPLE1, TUPLE2, TUPLE3, EMPTY_TUPLE, and from a mark on TUPLE, LIST, DICT, FROZENSET
            count = op - 0x84 if 0x85 <= op <= 0x87 else 0
            if op == 0x74 or op == 0x6C or op == 0x64 or op == 0x91:
                if not marked:
                    return 1, at, 0
                marked -= 1
                count = top - base
            if count > top - base:
                return 1, at, 0
            depth, weight = 0, 1
            for k in range(top - count, top):
                entry = int(stack[k])
                depth = max(depth, entry >> 3 & 127)
                heavy = entry >> 10 & 255
                weight = min(weight + heavy, 255)
                if op == 0x91 or (op == 0x64 and (k - top + count) % 2 == 0):
                    unusual += 1 if heavy > 1 else 0
                    if heavy > MAX_KEY or unusual > MAX_UNUSUAL_KEYS:
                        return 3, at, 0
            if depth >= MAX_DEPTH:
                return 2, at, 0
            if op == 0x64 and count % 2:
                return 1, at, 0
            kind = 1 if op == 0x6C else 2 if op == 0x64 else 0
            if op == 0x6C or op == 0x64:
                weight = 1
            if op == 0x91:
                weight = 2
            top -= count
            stack[top] = kind | (depth + 1) << 3 | max(weight, 2) << 10
            top += 1
        elif op == 0x5D or op == 0x7D or op == 0x8F:  # EMPTY_LIST, EMPTY_DICT, EMPTY_SET
            stack[top] = (1 if op == 0x5D else 2 if op == 0x7D else 4) | 1 << 3 | 2 << 10
            top += 1
        elif op == 0x61 or op == 0x65 or op == 0x73 or op == 0x75 or op == 0x90:  # APPEND(S), SETITEM(S), ADDITEMS
            count = 1 if op == 0x61 else 2
            if op == 0x65 or op == 0x75 or op == 0x90:
                if not marked:
                    return 1, at, 0
                marked -= 1
                count = top - base
                base = int(marks[marked - 1]) if marked else 0
            if count >= top - base:
                return 1, at, 0
            step = 2 if op == 0x73 or op == 0x75 else 1
            if count % step:
                return 1, at, 0
            top -= count
            owner = int(stack[top - 1])
            if not owner & (1 if op == 0x61 or op == 0x65 else 4 if op == 0x90 else 2):
                return 5, at, 0
            depth = owner >> 3 & 127
            for k in range(count):
                entry = int(stack[top + k])
                depth = max(depth, (entry >> 3 & 127) + 1)
                if op == 0x90 or (step == 2 and k % 2 == 0):
                    heavy = entry >> 10 & 255
                    unusual += 1 if heavy > 1 else 0
                    if heavy > MAX_KEY or unusual > MAX_UNUSUAL_KEYS:
                        return 3, at, 0
            if depth > MAX_DEPTH:
                return 2, at, 0
            stack[top - 1] = owner & ~(127 << 3) | depth << 3
            if owner >> 18:
                memo[(owner >> 18) - 1] = stack[top - 1]
        elif op == 0x52 or op == 0x81 or op == 0x62:  # REDUCE, NEWOBJ, BUILD
            if top - base < 2:
                return 1, at, 0
            top -= 1
            below = int(stack[top - 1])
            depth = max(below >> 3 & 127, (int(stack[top]) >> 3 & 127) + 1)
            if depth > MAX_DEPTH:
                return 2, at, 0
            if op == 0x52:
                stack[top - 1] = 7 | depth << 3 | 2 << 10
            elif op == 0x81:  # becomes REDUCE
                out[o : o + at - copied] = data[copied:at]
                o += at - copied
                copied = i
                out[o] = 0x52
                o += 1
                stack[top - 1] = 7 | depth << 3 | 2 << 10
            else:  # becomes TUPLE2, BINPERSID and, as the answer is another object, LONG_BINPUT
                if below & 7 != 7:
                    return 5, at, 0
                out[o : o + at - copied] = data[copied:at]
                o += at - copied
                copied = i
                out[o] = 0x86
                out[o + 1] = 0x51
                o += 2
                number = below >> 18
                stack[top - 1] = 7 | depth << 3 | 2 << 10 | number << 18
                if number:
                    out[o] = 0x72
                    for k in range(4):
                        out[o + 1 + k] = (number - 1) >> (8 * k) & 255
                    o += 5
                    memo[number - 1] = stack[top - 1]
        elif op == 0x92:  # NEWOBJ_EX becomes TUPLE3, BINPERSID
            if top - base < 3:
                return 1, at, 0
            top -= 2
            depth = max(int(stack[top]) >> 3 & 127, int(stack[top + 1]) >> 3 & 127) + 1
            if depth > MAX_DEPTH:
                return 2, at, 0
            out[o : o + at - copied] = data[copied:at]
            o += at - copied
            copied = i
            out[o] = 0x87
            out[o + 1] = 0x51
            o += 2
            stack[top - 1] = 7 | depth << 3 | 2 << 10
        elif op == 0x51 or op == 0x93:  # BINPERSID, STACK_GLOBAL
            taken = 1 if op == 0x51 else 2
            if top - base < taken:
                return 1, at, 0
            top -= taken
            stack[top] = 1 << 3 | 2 << 10
            top += 1
        elif op == 0x49 or op == 0x4C or op == 0x46 or op == 0x53 or op == 0x56 or op == 0x63:
            # INT, LONG, FLOAT, STRING, UNICODE, and with two lines GLOBAL
            for _ in range(2 if op == 0x63 else 1):
                while i < end and (data[i] & 255) != 10:
                    i += 1
                i += 1
            digits = i - at
            if (op == 0x49 or op == 0x4C) and digits > 4000:
                return 6, at, 0
            heavy = 2 if op == 0x63 or ((op == 0x49 or op == 0x4C) and digits > 20) else 1
            stack[top] = heavy << 10
            top += 1
        elif op == 0x30:  # POP
            if top > base:
                top -= 1
            elif marked:
                marked -= 1
            else:
                return 1, at, 0
        elif op == 0x31:  # POP_MARK
            if not marked:
                return 1, at, 0
            marked -= 1
            top = base
        elif op == 0x80:  # PROTO
            i += 1
        elif op == 0x95:  # FRAME, a hint for reading that rewriting makes wrong
            out[o : o + at - copied] = data[copied:at]
            o += at - copied
            i += 8
            copied = i
        elif op == 0x2E:  # STOP
            if top - base < 1 or marked:
                return 1, at, 0
            out[o : o + i - copied] = data[copied:i]
            return 0, i, o + i - copied
        else:
            return 4, at, 0
        if i > end:
            return 1, at, 0
