"""Public names that are imported when they are first used (PEP 562).

TensorBoard imports the package to find the Adam tab: that must neither take seconds nor fail where torch cannot load.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module ``__getattr__`` for ``package``.

    Args:
        package: its ``__name__``.
        homes: public name to the module that defines it.

    Returns:
        A function that finds public names in their homes, and submodules by their names.
    """

    class Package(ModuleType):
        """The import system sets a submodule as an attribute: one called like a public name must not hide it."""

        def __setattr__(self, name: str, value: Any) -> None:
            if not (name in homes and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    module = sys.modules[package]
    module.__class__ = Package

    def find(name: str) -> Any:
        if name in homes:
            value = getattr(import_module(homes[name]), name)
            setattr(module, name, value)
            return value
        if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
