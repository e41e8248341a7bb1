"""A memory of digests of its own for each test."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `NS_CACHE` names."""
    monkeypatch.setenv("NS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
