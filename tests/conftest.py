"""What all tests share: shapes are checked at run time, torch uses few threads, and `--soak` sizes come from SOAK."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

SOAK = os.environ.get("SOAK") == "1"
install_import_hook(["fusion", "encoders", "tasks", "analysis"], "typecheck.checked")
settings.register_profile("quick", deadline=None)
settings.register_profile("soak", deadline=None, max_examples=500)
settings.load_profile("soak" if SOAK else "quick")

LONGEST = (
    "test_analysis_planted_gain.py",
    "test_analysis_calibration.py",
    "test_experiments_presets.py",
    "test_world.py",
    "test_end_to_end.py",
    "test_browser_report.py",
    "test_tasks_fuzz.py",
    "test_encoders_store_damage.py",
    "test_experiments_share.py",
)
"""Files that take longest, begun first: a worker that begins one last is waited for by the others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; `--no-loadscope-reorder` keeps pytest-xdist from ordering them by number of tests."""
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
