"""The page: one Jinja2 template and the configuration embedded in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from .errors import InstallationIncomplete
from .settings import Settings
from .version import __version__

TEMPLATE = "index.html"


class PageConfig(dict[str, Any]):
    """The configuration for the page: a mapping that a template can print into a ``<script>`` data block as it is."""

    def __html__(self) -> str:
        return script_safe_json(self)


class Page:
    """Renders the page. Templates are read anew when they change on disk."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(settings.static_dir) / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )

    def render(self, asset_base: str, models: Sequence[Mapping[str, Any]]) -> str:
        """The HTML.

        Args:
            asset_base: URL of the static tree, with a trailing slash.
            models: those on offer, as `Offers.listed` gives them.

        Raises:
            InstallationIncomplete: there is no template.
        """
        ids = [model["id"] for model in models]
        wanted = self._settings.default_model
        config = PageConfig(
            version=__version__,
            assetBase=asset_base,
            isolated=self._settings.isolation,
            connect=list(self._settings.connect_sources),
            models=list(models),
            defaultModel=wanted if wanted in ids else next(iter(ids), None),
        )
        try:
            template = self._templates.get_template(TEMPLATE)
        except jinja2.TemplateNotFound as error:
            raise InstallationIncomplete(
                f"The page's template {error.name} is missing.", hint="Install sippet-host again."
            ) from None
        return template.render(asset_base=asset_base, config=config, version=__version__)


def script_safe_json(value: Any) -> Markup:
    """JSON that can stand inside ``<script>``: no character in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)
