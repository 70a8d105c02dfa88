"""GGUF language models in a browser tab, in a Python process and on a server: one API.

Start at :class:`SippClient`.
"""

from .client import SippClient
from .config import ContextConfig, RuntimeConfig, SchedulerConfig
from .endpoints import EndpointRef, LocalModel
from .errors import SippError
from .events import ClientEvent, Status
from .messages import ChatMessage
from .options import TextOptions
from .results import TextResult, Timings, TokenBatch, Usage
from .runs import TextRun

__version__ = "0.1.0"

__all__ = [
    "ChatMessage",
    "ClientEvent",
    "ContextConfig",
    "EndpointRef",
    "LocalModel",
    "RuntimeConfig",
    "SchedulerConfig",
    "SippClient",
    "SippError",
    "Status",
    "TextOptions",
    "TextResult",
    "TextRun",
    "Timings",
    "TokenBatch",
    "Usage",
]
