"""Defer the import of a slow module that a package rarely needs."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def deferred_import(name: str, *functions: str) -> Iterator[None]:
    """Defer the import of a module in the block to the first call of a function.

    Within the block, `from <name> import <function>` gives a stand-in, which imports the module when it is
    called. Any other name imports the module at once; if it is imported already, nothing is deferred.

    Args:
        name: the module's full name.
        functions: of the module.
    """
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)

    def find(attribute: str) -> Any:
        if attribute.startswith("__"):  # the import system looks for a package's
            raise AttributeError(attribute)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    def defer(function: str) -> Callable[..., Any]:
        return lambda *arguments, **options: find(function)(*arguments, **options)

    vars(stand_in).update({function: defer(function) for function in functions}, __getattr__=find)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
