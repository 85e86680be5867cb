"""What the sections of a config share: strict fields, numbers that are no flags, lists of names, and refusals in the words of the config."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

__all__ = ["Names", "Real", "Section", "Whole", "mistake"]


def mistake(found: object, expected: str, key: str = "") -> PydanticCustomError:
    """A refusal in the words of the config; ``key`` is the part of a section that it is about."""
    return PydanticCustomError("mistake", "expected {expected}", {"found": found, "expected": expected, "key": key})


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _no_flag(value: object) -> object:
    # Python counts true as 1, so `steps: true` would train for one step.
    if isinstance(value, bool):
        raise mistake(value, "a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_flag)]
Real = Annotated[float, BeforeValidator(_no_flag)]


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    # pydantic's own length check speaks up again about an item that was refused.
    if not value:
        raise mistake([], "at least 1 item")
    return value


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_some)]
