"""The one error of this package, and the sentence that every damaged file gets."""

from __future__ import annotations

from pathlib import Path

from utils.errors import UserError


class DataError(UserError):
    """Data that is missing, damaged or unknown: one sentence that says what to do about it."""


def damaged(path: Path, found: str, expected: str) -> DataError:
    """The error for a file that is there but cannot be what its name says."""
    return DataError(
        f"{path} is damaged or not what its name says: found {found}, expected {expected}; "
        "delete it and download it again, or put a good copy in its place."
    )
