from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import pcdiff


@pytest.mark.parametrize("name", [name for name in pcdiff.__all__ if name != "__version__"])
def test_a_public_name_stays_what_it_is(name: str) -> None:
    """A submodule of the same name would take the place of a function once it is imported."""
    for module in pkgutil.walk_packages(pcdiff.__path__, "pcdiff."):
        importlib.import_module(module.name)
    first = getattr(pcdiff, name)
    assert getattr(pcdiff, name) is first
    assert inspect.isclass(first) or inspect.isfunction(first)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'reed'"):
        pcdiff.reed  # noqa: B018
