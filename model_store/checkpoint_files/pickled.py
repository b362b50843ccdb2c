"""Reads the pickle of a PyTorch file without running anything: containers, numbers, texts and arrays, nothing else.

The reader interprets the few opcodes that such files need. It calls no class of the file and imports none. Python's own
unpickler is not used, since a file of a few bytes makes it allocate many gigabytes (a large index of its memo).
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model_store.checkpoint_files.errors import CheckpointError, first_line
from model_store.checkpoint_files.stored_tensor import Storage, StoredTensor

MAX_PICKLE_BYTES = 16 * 2**20
"""Largest pickle that is read. That of the largest model of the family has 0.2 MB."""
MAX_OPCODES = 2_000_000
MAX_TENSORS = 50_000

# Name of the storage in the archive, number format, number of elements → its bytes.
FindStorage = Callable[[str, str, int], Storage]

_ORDERED_DICT = "collections.OrderedDict"
_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_SIZE = "torch.Size"
_STORAGES: Mapping[str, str] = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_ALLOWED = {_ORDERED_DICT, _REBUILD_TENSOR, _SIZE, *_STORAGES}

_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class _Global:
    """A class or function that the file names; it is never imported."""

    name: str


class _Mark:
    """The begin of a list of arguments on the stack."""


def read_pickle(content: bytes, find_storage: FindStorage) -> object:
    """Return the object of a pickle: dicts, lists, tuples, numbers, texts and `StoredTensor`.

    Args:
        content: The pickle.
        find_storage: Function that returns the bytes of a storage; it raises CheckpointError for one that is absent.

    Raises:
        CheckpointError: The pickle is damaged or too large, or contains objects of other classes; the message names the
            first such class.
    """
    if len(content) > MAX_PICKLE_BYTES:
        raise CheckpointError(f"has an index of more than the {MAX_PICKLE_BYTES} bytes that are read")
    machine = _Machine(find_storage)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count >= MAX_OPCODES:
                raise CheckpointError(f"has an index of more than {MAX_OPCODES} steps")
            if opcode.name == "STOP":
                return machine.pop()
            machine.run(opcode.name, argument)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise CheckpointError(f"is damaged: {first_line(error)}") from error
    raise CheckpointError("is damaged: its index does not end")


class _Machine:
    """Stack and memo of a pickle that is being read.

    Args:
        find_storage: See `read_pickle`.
    """

    def __init__(self, find_storage: FindStorage) -> None:
        self.find_storage = find_storage
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.tensors = 0
        self.steps: Mapping[str, Callable[[Any], None]] = {
            "PROTO": self._ignore,
            "FRAME": self._ignore,
            "MARK": self._mark,
            "TUPLE": self._tuple,
            "APPEND": self._append,
            "APPENDS": self._appends,
            "SETITEM": self._setitem,
            "SETITEMS": self._setitems,
            "BINPUT": self._put,
            "LONG_BINPUT": self._put,
            "MEMOIZE": self._memoize,
            "BINGET": self._get,
            "LONG_BINGET": self._get,
            "GLOBAL": self._global,
            "STACK_GLOBAL": self._stack_global,
            "BUILD": self._build,
            "BINPERSID": self._binpersid,
            "REDUCE": self._reduce,
        }

    def pop(self) -> object:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise IndexError("a mark where a value is expected")
        return value

    def run(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[name])]
            self.stack.append(tuple(reversed(items)))
        elif name in self.steps:
            self.steps[name](argument)
        else:
            raise CheckpointError(f"contains the opcode {name}, which no file of arrays needs")

    def _ignore(self, _: object) -> None:
        """Ignore the protocol, since each opcode is checked, and the lengths by which newer protocols read ahead."""

    def _mark(self, _: None) -> None:
        self.stack.append(_Mark())

    def _tuple(self, _: None) -> None:
        self.stack.append(tuple(self._marked()))

    def _append(self, _: None) -> None:
        value = self.pop()
        self._top(list).append(value)

    def _appends(self, _: None) -> None:
        values = self._marked()
        self._top(list).extend(values)

    def _setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _setitems(self, _: None) -> None:
        self._set(self._marked())

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def _global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        self._push_global(f"{module}.{attribute}")

    def _stack_global(self, _: None) -> None:
        attribute, module = self.pop(), self.pop()
        # The text of nested lists may be of any length, so only names are put into one.
        match module, attribute:
            case str(), str():
                self._push_global(f"{module}.{attribute}")
            case _:
                raise ValueError("a class whose name is no text")

    def _push_global(self, name: str) -> None:
        if name not in _ALLOWED:
            raise CheckpointError(_foreign_class(name))
        self.stack.append(_Global(name))

    def _build(self, _: None) -> None:
        """Drop the attributes of a mapping: torch writes the versions of its modules there."""
        self.pop()
        self._top(dict)

    def _binpersid(self, _: None) -> None:
        match self.pop():
            case ("storage", _Global(name), str(key), str(), int(elements)) if name in _STORAGES and elements >= 0:
                self.stack.append(self.find_storage(key, _STORAGES[name], elements))
            case _:
                raise ValueError("a reference to something that is no storage")

    def _reduce(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        match function, arguments:
            case _Global("collections.OrderedDict"), ():
                self.stack.append({})
            case _Global("torch.Size"), (tuple(sizes),):
                self.stack.append(sizes)
            case _Global("torch._utils._rebuild_tensor_v2"), (Storage() as storage, offset, shape, strides, *_):
                self.stack.append(self._tensor(storage, offset, shape, strides))
            case _:
                raise ValueError("a call that does not make a mapping or an array")

    def _tensor(self, storage: Storage, offset: object, shape: object, strides: object) -> StoredTensor:
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise CheckpointError(f"contains more than {MAX_TENSORS} arrays")
        (begin,) = _integers((offset,))
        return StoredTensor(storage, begin, _integers(shape), _integers(strides))

    def _marked(self) -> list[object]:
        """Return what lies above the last mark, and remove both."""
        for position in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[position], _Mark):
                values = self.stack[position + 1 :]
                del self.stack[position:]
                return values
        raise ValueError("a mark is missing")

    def _top(self, kind: type[Any]) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"something else than a {kind.__name__} is changed")
        return self.stack[-1]

    def _set(self, pairs: list[object]) -> None:
        mapping = self._top(dict)
        keys, values = pairs[::2], pairs[1::2]
        for key, value in zip(keys, values, strict=True):
            # Other keys could be nested, so that hashing them takes long. Large integers are made to collide easily.
            if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**31)):
                raise ValueError("a mapping whose keys are neither names nor small numbers")
            mapping[key] = value


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int for value in values):
        raise ValueError("an array whose position or shape is not of integers")
    return values


def _foreign_class(name: str) -> str:
    """Return a sentence about a class that is not read."""
    package = name.partition(".")[0]
    kind = f"contains objects of the class {name[:100]}"
    if "parameter" in name.lower() and package == "torch":
        # Loaded and saved again they would be parameters once more.
        return (
            f"{kind}: parameters of a model, which are not read; only plain arrays by name are. Save the arrays where "
            "torch is installed: torch.save({name: value.detach() for name, value in arrays.items()}, 'new.pth')"
        )
    if package in {"torch", "collections", "builtins", "numpy"} and not name.startswith("torch.nn."):
        return f"{kind}; only plain arrays by name are read. {RESAVE}"
    if package == "ultralytics":
        return f"{kind}: it is a pickled YOLO or FastSAM model, which is not of the SAM family"
    return (
        f"{kind}: it is a pickled model object, whose code would have to run, and none runs here. Save its arrays with "
        "the code of its authors: torch.save(model.state_dict(), 'arrays.pth')"
    )


RESAVE = (
    "Save its arrays anew where torch is installed: "
    "torch.save(torch.load('old.pth', map_location='cpu', weights_only=True), 'new.pth')"
)
"""What to do about a file that torch can read and this project cannot."""
