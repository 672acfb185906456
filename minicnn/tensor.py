"""Tensor: an array, whether it wants a gradient, and where on the tape it came from.

Operators and methods such as `+`, `sum` or `reshape` are defined once, as public functions in
`minicnn.functions`, and attached here by their `tensor_method` decorator. How gradients flow is in
`function.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

import minicnn_kernels as kernels
from minicnn import scope

if TYPE_CHECKING:
    from minicnn.function import Function

float32, float64 = np.dtype(np.float32), np.dtype(np.float64)
int8, uint8, int16, int32, int64 = (np.dtype(name) for name in ("int8", "uint8", "int16", "int32", "int64"))
bool_ = np.dtype(np.bool_)
_SUPPORTED = frozenset((float32, float64, int8, uint8, int16, int32, int64, bool_))


class Version:
    """How often a piece of memory was changed in place; views of one memory share one."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Tensor:
    """A multi-dimensional array with a gradient. Make one with `minicnn.tensor`.

    data: the array (NumPy on the cpu). grad: a Tensor of the same shape, or None.
    requires_grad: whether backward accumulates into `grad` (leaves) or passes through (results).
    """

    __slots__ = ("__weakref__", "_data", "_node", "_version", "grad", "requires_grad")
    __array_priority__ = 1000  # so that ndarray + Tensor asks Tensor.__radd__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        self._data = np.array(data, float32) if isinstance(data, (list, tuple)) else data
        self._version = Version()
        self._node: Function | None = None
        self.grad: Tensor | None = None
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_()

    # -- what it is ---------------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The raw array. Writing into it goes unseen by the tape and by compiled models.

        Assign to it, use `copy_`, or call `mark_changed` after writing.
        """
        return self._data

    @data.setter
    def data(self, array: Any) -> None:
        array = array.data if isinstance(array, Tensor) else array
        if array is self._data:  # `x.data *= 2` has written into it
            self.mark_changed()
        self._data = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each dimension."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        """Element type, a NumPy dtype."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._data.ndim

    def dim(self) -> int:
        """Number of dimensions."""
        return self._data.ndim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or its entry `dim`."""
        return self._data.shape if dim is None else self._data.shape[dim]

    def numel(self) -> int:
        """Number of elements."""
        return int(self._data.size)

    def is_contiguous(self) -> bool:
        """Whether the elements lie in C order in memory. Images made by layers usually do not."""
        return self._data.flags.c_contiguous

    @property
    def T(self) -> Tensor:
        """A view with the dimensions in reverse order."""
        return self.permute(*range(self.ndim)[::-1])

    @property
    def mT(self) -> Tensor:
        """A view with the last two dimensions exchanged."""
        return self.transpose(-2, -1)

    @property
    def device(self) -> str:
        """Where the array lives: "cpu" or "cuda"."""
        return kernels.device_of(self._data)

    @property
    def is_leaf(self) -> bool:
        """True for tensors that no recorded operation made."""
        return self._node is None

    @property
    def grad_fn(self) -> Function | None:
        """The recorded operation that made this tensor, None for leaves."""
        return self._node

    @property
    def is_floating_point(self) -> bool:
        """Whether the dtype is float32 or float64."""
        return self._data.dtype.kind == "f"

    def __len__(self) -> int:
        if self._data.ndim == 0:
            raise TypeError("len() of a 0-dimensional tensor")
        return self._data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self._data.dtype.kind not in "iu":
            raise TypeError(f"only integer tensors can be used as an index, got {self.dtype}")
        return int(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else format(repr(self), spec)

    def __hash__(self) -> int:
        return id(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise RuntimeError("deepcopy: this is the result of a recorded operation; use detach().clone()")
        result = memo[id(self)] = type(self)(kernels.of(self._data).copy(self._data), self.requires_grad)
        if self.grad is not None:
            result.grad = self.grad.clone()
        return result

    def __repr__(self) -> str:
        body = np.array2string(kernels.to_host(self._data), separator=", ", prefix="tensor(", precision=4)
        suffix = "" if self.dtype in (float32, int64, bool_) else f", dtype={self.dtype}"
        if self.device != "cpu":
            suffix += f", device={self.device!r}"
        if self._node is not None:
            suffix += f", grad_fn=<{self._node.name}>"
        elif self.requires_grad:
            suffix += ", requires_grad=True"
        return f"tensor({body}{suffix})"

    # -- out of the engine --------------------------------------------------------------------

    def _leaves(self, how: str) -> None:
        """Python is about to see the values: a recorder (see `scope`) may have something to say."""
        if scope.watch.recorder is not None:
            scope.watch.recorder.read(self, how)

    def item(self) -> Any:
        """The only element, as a Python number. Raises ValueError if there are several."""
        if self._data.size != 1:
            raise ValueError(
                f"item: expected a tensor with one element, got shape {self.shape}; use tolist()"
            )
        self._leaves("item")
        return kernels.to_host(self._data).item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        self._leaves("tolist")
        return kernels.to_host(self._data).tolist()

    def numpy(self) -> np.ndarray:
        """The array, sharing memory.

        Raises RuntimeError for a tensor that requires a gradient, TypeError for one on another device.
        """
        if self.requires_grad:
            raise RuntimeError("numpy: this tensor requires a gradient; use tensor.detach().numpy()")
        if self.device != "cpu":
            raise TypeError(
                f"numpy: this tensor is on {self.device!r}; copy it to the host: tensor.cpu().numpy()"
            )
        self._leaves("numpy")
        return kernels.to_host(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.numpy().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return kernels.to_host(self._data).__dlpack_device__()

    # -- gradients ----------------------------------------------------------------------------

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` of a leaf. Raises for integers and for results of operations."""
        if requires_grad and self._data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors can require gradients, got {self.dtype}")
        if self._node is not None and not requires_grad:
            raise RuntimeError("requires_grad_(False) on the result of an operation: use detach()")
        self.requires_grad = bool(requires_grad)
        return self

    def detach(self) -> Tensor:
        """The same memory, cut off from the tape."""
        result = Tensor(self._data)
        result._version = self._version
        if scope.watch.recorder is not None:
            scope.watch.recorder.detach(self, result)
        return result

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Accumulate d(self)/d(leaf), weighted by `gradient`, into `grad` of every leaf that requires it.

        gradient: array or tensor of this shape; may be left out for a tensor with one element.
        retain_graph: keep the tape so that backward can be called again.
        """
        from minicnn.function import backward

        backward(self, gradient, retain_graph=retain_graph)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call `hook(grad)` when the gradient of this result is known; what it returns replaces the gradient.

        For results of operations (for leaves read `grad`). Returns a function that removes the hook.
        """
        if self._node is None:
            raise RuntimeError(
                "register_hook: this tensor is no result of a recorded operation; read its grad instead"
            )
        hooks = self._node.hooks
        hooks.append(hook)
        return lambda: hooks.remove(hook)

    def retain_grad(self) -> Tensor:
        """Accumulate into `grad` of this result of an operation, too, in backward."""
        if self._node is not None:
            this = ref(self)  # the tape must not keep alive the tensor that keeps it alive

            def keep(grad: Tensor) -> None:
                tensor = this()
                if tensor is not None:
                    tensor.grad = grad.clone() if tensor.grad is None else tensor.grad + grad

            self.register_hook(keep)
        return self

    def mark_changed(self) -> None:
        """Tell the tape that `data` was written in place: a backward needing the old values will refuse."""
        self._version.count += 1

    if TYPE_CHECKING:  # attached by minicnn.functions

        def __getattr__(self, name: str) -> Any: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...


def unwrap_index(index: Any) -> Any:
    """An index with the tensors in it replaced by their arrays."""
    if isinstance(index, Tensor):
        return index.data
    if isinstance(index, tuple):
        return tuple(unwrap_index(part) for part in index)
    if isinstance(index, list):
        return np.asarray(index)
    return index


def tensor_method(*names: str) -> Callable[[Callable], Callable]:
    """Attach a public function to Tensor under its own name, or under `names`."""

    def attach(function: Callable) -> Callable:
        for name in names or (function.__name__,):
            setattr(Tensor, name, function)
        return function

    return attach


def _supported(array: np.ndarray, what: str) -> np.ndarray:
    native = array.dtype.newbyteorder("=")
    if native not in _SUPPORTED:
        names = ", ".join(sorted(str(dtype) for dtype in _SUPPORTED))
        raise TypeError(
            f"{what}: dtype {array.dtype} is not supported, expected one of {names}; convert with astype"
        )
    return array if array.dtype.isnative else array.astype(native)


def as_dtype(dtype: Any) -> np.dtype:
    """`dtype` (NumPy dtype, type or name) as a NumPy dtype.

    Raises TypeError if the engine does not know it.
    """
    result = np.dtype(dtype)
    if result not in _SUPPORTED:
        names = ", ".join(sorted(str(known) for known in _SUPPORTED))
        raise TypeError(f"dtype {result} is not supported, expected one of {names}")
    return result


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor that owns a copy of `data` (numbers, nested sequences, arrays, tensors).

    Python floats become float32 and ints int64, as in PyTorch; arrays keep their dtype.
    Raises TypeError for dtypes that the engine does not know, ValueError for ragged sequences.
    """
    if isinstance(data, Tensor):
        data = data.data
    array = np.array(data, dtype=None if dtype is None else as_dtype(dtype), copy=True, order="C")
    if dtype is None and not hasattr(data, "dtype") and array.dtype == float64 and not _holds_numpy(data):
        array = array.astype(float32)
    return Tensor(_supported(array, "tensor"), requires_grad)


def _holds_numpy(data: Any) -> bool:
    """Whether nested sequences have NumPy scalars or arrays at the bottom: those keep their dtype."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return isinstance(data, (np.ndarray, np.generic))


def as_tensor(data: Any, dtype: Any = None) -> Tensor:
    """`data` as a tensor, sharing memory where that is possible."""
    if isinstance(data, Tensor):
        return data if dtype is None or data.dtype == np.dtype(dtype) else data.to(dtype)
    if isinstance(data, np.ndarray) and (dtype is None or data.dtype == np.dtype(dtype)):
        return Tensor(_supported(data, "as_tensor"))
    return tensor(data, dtype)


def from_dlpack(source: Any) -> Tensor:
    """A tensor that shares memory with any array or tensor that speaks DLPack (PyTorch's, CuPy's, ...)."""
    return from_numpy(np.from_dlpack(source))


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares memory with `array`. Raises TypeError if it is no NumPy array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: expected a NumPy array, got {type(array).__name__}")
    return Tensor(_supported(array, "from_numpy"))
