"""What all tests share: shapes are checked at run time, torch uses few threads, and `--soak` sizes come from SOAK."""

from __future__ import annotations

import os

from hypothesis import settings
from jaxtyping import install_import_hook

SOAK = os.environ.get("SOAK") == "1"
install_import_hook(["fusion", "encoders", "tasks", "analysis"], "typecheck.checked")
settings.register_profile("quick", deadline=None)
settings.register_profile("soak", deadline=None, max_examples=500)
settings.load_profile("soak" if SOAK else "quick")
