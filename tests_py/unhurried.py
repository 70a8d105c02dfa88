"""Hypothesis without a clock: a loaded machine is no failure. Importing this is enough, also inside Pyodide."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("sippet", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("sippet")
