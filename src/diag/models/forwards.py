"""Does a module's forward still reach accelerate's wrapper? Decided by reading callables, never by calling them.

accelerate replaces `module.forward` by a `functools.partial` of the function `new_forward` defined inside
`add_hook_to_module` (hooks.py, read at 1.15.0). People then wrap it (logging, profiling: healthy) or replace it
(fused kernels, patches: the weights never arrive). Both look alike from outside, so the callables are followed
through `__wrapped__`, partials, bound methods, closures, defaults, containers and the names a function uses.
"""

import enum
import functools
import inspect
import types
from collections.abc import Iterator

from torch import nn

_WRAPPER = "add_hook_to_module.<locals>.new_forward"
_LIMIT = 2_000  # callables looked at before it is called undecided


class Reach(enum.Enum):
    """YES and NO are certain; UNDECIDED means that running it under `watch` settles it."""

    YES = "yes"
    NO = "no"
    UNDECIDED = "undecided"


def reaches_wrapper(module: nn.Module) -> Reach:
    """Whether `module.forward` leads to accelerate's wrapper."""
    todo: list[object] = [module.forward]
    seen: set[int] = set()
    opaque = False
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if len(seen) > _LIMIT:
            return Reach.UNDECIDED
        if is_wrapper(item):
            return Reach.YES
        opaque = opaque or _is_opaque(item)
        todo.extend(_leads_to(item, module))
    return Reach.UNDECIDED if opaque else Reach.NO


def is_wrapper(item: object) -> bool:
    """True for the function accelerate puts in front of a forward."""
    return (
        isinstance(item, types.FunctionType)
        and item.__code__.co_name == "new_forward"
        and item.__code__.co_qualname == _WRAPPER
    )


def _leads_to(item: object, module: nn.Module) -> Iterator[object]:
    if isinstance(item, functools.partial):
        # update_wrapper gave the partial a __wrapped__, but a partial calls .func and nothing else.
        yield from (*item.args, *item.keywords.values(), item.func)  # the last one is looked at first
        return
    if isinstance(item, types.MethodType):
        yield from (item.__func__, item.__self__)
        return
    if isinstance(item, (dict, list, tuple, set, frozenset)):
        yield from list(item.values() if isinstance(item, dict) else item)[:_LIMIT]
        return
    for attribute in ("__wrapped__", "_torchdynamo_orig_callable"):
        inner = getattr(item, "__dict__", {}).get(attribute)
        if inner is not None:
            yield inner
    if isinstance(item, types.FunctionType):
        yield from _from_function(item, module)
    elif _is_callable_object(item):
        yield from vars(item).values()
        yield type(item).__call__


def _from_function(function: types.FunctionType, module: nn.Module) -> Iterator[object]:
    held = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    held += list(function.__defaults__ or ()) + list((function.__kwdefaults__ or {}).values())
    yield from held
    names = _names_used(function.__code__)
    modules = [module, *(one for one in held if isinstance(one, nn.Module))]
    for name in names:
        if name in function.__globals__ and _worth_following(function.__globals__[name]):
            yield function.__globals__[name]
        for owner in modules:
            if name != "forward" and name in owner.__dict__ and _worth_following(owner.__dict__[name]):
                yield owner.__dict__[name]


def _names_used(code: types.CodeType) -> set[str]:
    """Global and attribute names, also those of functions defined inside."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_used(constant)
    return names


def _worth_following(value: object) -> bool:
    return isinstance(value, (functools.partial, types.FunctionType, types.MethodType, dict, list)) or (
        _is_callable_object(value)
    )


def _is_callable_object(value: object) -> bool:
    """An instance of a class written in Python with __call__ (a wrapper object), but no module and no class."""
    if isinstance(value, (type, nn.Module, types.FunctionType, types.BuiltinFunctionType)):
        return False
    call = inspect.getattr_static(type(value), "__call__", None)
    return isinstance(call, types.FunctionType) and hasattr(value, "__dict__")


def _is_opaque(item: object) -> bool:
    """A callable that is neither Python code nor one of C's own functions: what it calls can't be read."""
    if isinstance(item, (type, nn.Module, types.FunctionType, types.MethodType, functools.partial)):
        return False
    if isinstance(item, (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType)):
        return False
    return callable(item) and not _is_callable_object(item)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # an empty cell
        return False
