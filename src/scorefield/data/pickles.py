"""A reader of pickles that hold dicts, lists, text, numbers and NumPy arrays of numbers, and that can run nothing.

Python's own unpickler is not used: a pickle is a program, and the unpickler runs it. Here its instructions are read by
`pickletools.genops`, which only takes them apart, and the few that describe data are followed on a stack of plain
values. A global is a name and nothing more: the three by which NumPy describes an array are understood, and every
other one is refused by its name. CIFAR-10's batches, written by Python 2, and copies of them written by Python 3 are of
this kind.
"""

from __future__ import annotations

import math
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
DTYPES = tuple(f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8) if kind + str(size) != "f1")
PUSHED = (  # instructions whose argument is the value
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


class _Global(str):
    """The name of a global; nothing is ever looked up by it."""


class _Dtype:
    """What `dtype(name, …)` describes; `BUILD` settles the byte order."""

    def __init__(self, name: str) -> None:
        self.name, self.order = name, "|"


class _Array:
    """What `_reconstruct(ndarray, …)` begins and `BUILD` fills."""

    value: np.ndarray | None = None


def read_plain_pickle(content: bytes, name: str | Path) -> Any:
    """The value of a pickle of plain data: dicts, lists, tuples, text, bytes, numbers, arrays of numbers.

    Text written by Python 2 comes back as bytes, whatever it held.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        ValueError: the pickle is damaged, or holds anything else; nothing of it was run.
    """
    try:
        value = _Machine().run(content)
    except _Forbidden as error:
        raise ValueError(
            f"{name} is refused: it is a pickle that holds {error}, which the batches of CIFAR-10 do not; pickles can "
            "run code, this one was only looked at; fetch the batch from its source"
        ) from None
    except Exception as error:  # damaged instructions fail in many ways
        said = str(error)[:200] or type(error).__name__
        raise ValueError(f"{name} is damaged or truncated, or no pickle ({said}); fetch it again") from None
    return value


class _Forbidden(Exception):
    """An instruction or a global that plain data do not need."""


class _Machine:
    """The stack and the memo of the pickle format."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Follow the instructions to STOP."""
        for code, argument, _ in pickletools.genops(content):
            if code.name == "STOP":
                break
            self.follow(code.name, argument)
        (value,) = self.stack
        return _finished(value)

    def follow(self, code: str, argument: Any) -> None:
        """One instruction."""
        stack = self.stack
        if code in PUSHED:
            stack.append(argument)
        elif code in ("SHORT_BINSTRING", "BINSTRING"):  # Python 2's str, which pickletools decodes
            stack.append(argument.encode("latin-1"))
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code == "MARK":
            stack.append(MARK)
        elif code in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if code == "EMPTY_DICT" else [])
        elif code == "TUPLE":
            stack.append(tuple(self.marked()))
        elif code in TUPLES:
            stack.append(tuple(self.last(TUPLES[code])))
        elif code in ("APPEND", "APPENDS"):
            values = self.last(1) if code == "APPEND" else self.marked()
            _of_kind(list, stack[-1]).extend(map(_finished, values))
        elif code in ("SETITEM", "SETITEMS"):
            values = self.last(2) if code == "SETITEM" else self.marked()
            for key, value in zip(values[::2], values[1::2], strict=True):
                if type(key) not in (str, bytes):
                    raise _Forbidden(f"a dict with a key of type {type(key).__name__}")
                _of_kind(dict, stack[-1])[key] = _finished(value)
        elif code in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if code == "MEMOIZE" else argument] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif code == "GLOBAL":
            stack.append(_known(*argument.split(" ", 1)))
        elif code == "STACK_GLOBAL":
            stack.append(_known(*self.last(2)))
        elif code == "REDUCE":
            called, arguments = self.last(2)
            stack.append(_described(called, _of_kind(tuple, arguments)))
        elif code == "BUILD":
            (state,) = self.last(1)
            _build(stack[-1], _of_kind(tuple, state))
        elif code not in ("PROTO", "FRAME"):
            raise _Forbidden(f"the instruction {code}")

    def last(self, count: int) -> list[Any]:
        """Take so many values off the stack."""
        if count > len(self.stack):
            raise ValueError("the stack is empty")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        if any(value is MARK for value in values):
            raise ValueError("a mark in place of a value")
        return values

    def marked(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        place = next(i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is MARK)
        values = self.last(len(self.stack) - place - 1)
        self.stack.pop()
        return values


def _of_kind(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {kind.__name__} is due, {type(value).__name__} stands there")
    return value


def _known(module: Any, name: Any) -> _Global:
    """A global that describes an array; every other one is refused."""
    if type(module) is str and type(name) is str:
        if module in NUMPY and name == "_reconstruct" or module == "numpy" and name in ("ndarray", "dtype"):
            return _Global(name)
    raise _Forbidden(f"the global {f'{module}.{name}'[:80]!r}")


def _described(called: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call describes, of the calls by which NumPy writes an array."""
    if type(called) is _Global:
        if called == "_reconstruct" and len(arguments) == 3 and arguments[0] == "ndarray":
            return _Array()
        if called == "dtype" and arguments and type(arguments[0]) in (str, bytes):
            name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode("ascii")
            if name not in DTYPES:
                raise _Forbidden(f"an array of dtype {name[:40]!r}")
            return _Dtype(name)
    raise _Forbidden("a call that describes no array")


def _build(value: Any, state: tuple[Any, ...]) -> None:
    """Settle a dtype's byte order, or an array's shape and values."""
    if type(value) is _Dtype and len(state) >= 2 and state[1] in ("|", "<", ">", b"|", b"<", b">"):
        value.order = state[1] if isinstance(state[1], str) else state[1].decode()
    elif type(value) is _Array and len(state) == 5 and type(state[2]) is _Dtype:
        _, shape, dtype, by_columns, content = state
        if not (type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape) and type(content) is bytes):
            raise _Forbidden("an array whose values are not bytes")
        flat = np.frombuffer(content, np.dtype(dtype.order.replace("|", "") + dtype.name))
        if flat.size != math.prod(shape):
            raise ValueError(f"an array of shape {shape} holds {flat.size} values")
        value.value = flat.reshape(shape, order="F" if by_columns else "C")
    else:
        raise _Forbidden("a state that is no array's")


def _finished(value: Any) -> Any:
    """A value fit to be kept: an array that was filled, or plain data."""
    if type(value) is _Array:
        if value.value is None:
            raise _Forbidden("an array without values")
        return value.value
    if type(value) in (_Global, _Dtype):
        raise _Forbidden("a global as a value")
    return value
