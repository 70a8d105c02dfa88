"""Sippet's host: serves the chat page, the runtime's assets, the models and the headers that browsers need for them."""

from .app import create_app
from .csp import Grant, Policy, build_policy
from .errors import ConfigurationError, HostError
from .models import ModelEntry, ModelFile, load_directory, load_model, unique_ids
from .server import Running, ServerThread, running
from .settings import Settings
from .version import __version__

__all__ = [
    "ConfigurationError",
    "Grant",
    "HostError",
    "ModelEntry",
    "ModelFile",
    "Policy",
    "Running",
    "ServerThread",
    "Settings",
    "__version__",
    "build_policy",
    "create_app",
    "load_directory",
    "load_model",
    "running",
    "unique_ids",
]
