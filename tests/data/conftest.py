"""Datasets keep arrays in a folder of the user's: in tests, in one of their own."""

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FATHOM_CACHE", str(folder))
    return folder
