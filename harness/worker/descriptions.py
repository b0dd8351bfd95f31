"""Which functions ask only what a tensor is like, and which write to one; for stand-ins that hold no values."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

OF_VALUES = {"device", "is_cuda", "is_cpu", "is_meta", "get_device"}
"""What a stand-in without memory has to ask another tensor."""
_DESCRIPTIONS = {
    "shape", "dtype", "layout", "ndim", "requires_grad", "is_leaf", "is_sparse", "is_quantized", "is_nested", "grad_fn",
    "size", "dim", "numel", "nelement", "stride", "is_contiguous", "__len__", "is_floating_point", "is_complex",
    "element_size", "ndimension", "storage_offset",
}  # fmt: skip


def name_of(func: Any) -> str:  # noqa: ANN401
    """A function's name, or that of the attribute that it gets or sets."""
    name: str = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", "") if name in {"__get__", "__set__"} else name


def describes(func: Any) -> bool:  # noqa: ANN401
    """Whether it only asks for what a tensor is like, not for its values."""
    return name_of(func) in _DESCRIPTIONS and getattr(func, "__name__", "") != "__set__"


def changes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:  # noqa: ANN401
    """Whether it writes to one of its arguments."""
    name = getattr(func, "__name__", "")
    return (
        name in {"__setitem__", "__set__", "__delitem__"}
        or (name.endswith("_") and not name.endswith("__"))
        or (name.startswith("__i") and name not in {"__index__", "__int__", "__invert__"})
        or kwargs.get("inplace") is True
        or kwargs.get("out") is not None
        or _in_place_given(func, args)
    )


def _in_place_given(func: Any, args: Sequence[Any]) -> bool:  # noqa: ANN401
    """Whether ``inplace`` is among the arguments without its name."""
    place = _place_of_inplace(func)
    return place is not None and len(args) > place and args[place] is True


@functools.lru_cache(1024)
def _place_of_inplace(func: Any) -> int | None:  # noqa: ANN401
    if getattr(func, "__module__", "") != "torch.nn.functional":
        return None
    names = list(inspect.signature(func).parameters)
    return names.index("inplace") if "inplace" in names else None
