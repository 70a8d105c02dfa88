"""Sippet: GGUF language models in a browser tab, in a Python process and on a server, behind one API.

::

    from sippet import LocalModel, SippClient

    async with SippClient() as client:
        await client.add("chat", LocalModel("/models/smollm2/model.gguf"))
        result = await client.chat([{"role": "user", "content": "Hello"}])
        print(result.text)
"""

from ._remote_fields import Bearer, Header
from .client import ClientOptions, SippClient
from .config import (
    CacheConfig,
    ContextConfig,
    MultimodalConfig,
    ObservabilityConfig,
    PlacementConfig,
    ResidencyConfig,
    RuntimeConfig,
    SamplingConfig,
    SchedulerConfig,
)
from .endpoints import Descriptor, EndpointRef, Gateway, LocalModel, Provider
from .engines.base import EngineInfo
from .errors import (
    AmbiguousEndpoint,
    AssetError,
    AuthenticationFailed,
    Cancelled,
    ClientClosed,
    ContextOverflow,
    EndpointNotFound,
    EngineCrashed,
    EngineError,
    InvalidModel,
    InvalidOption,
    ModelError,
    ModelNotFound,
    ModelTooLarge,
    PlatformError,
    QueueFull,
    RateLimited,
    RemoteError,
    RemoteUnavailable,
    SchemaMismatch,
    SippError,
    StorageError,
    UnsupportedEnvironment,
    UnsupportedModel,
    UnsupportedOperation,
    UnsupportedOption,
    UsageError,
)
from .events import ClientEvent, Status
from .messages import ChatMessage
from .options import EmbedOptions, SamplingOptions, TextOptions
from .results import (
    EmbedResult,
    RankedDocument,
    RerankResult,
    TextResult,
    Timings,
    TokenBatch,
    TokenLogprob,
    ToolsResult,
    Usage,
)
from .runs import EmbedRun, RerankRun, Run, TextRun
from .tools import Tool, tool_schema

__version__ = "0.1.0"

__all__ = [
    "AmbiguousEndpoint",
    "AssetError",
    "AuthenticationFailed",
    "Bearer",
    "CacheConfig",
    "Cancelled",
    "ChatMessage",
    "ClientClosed",
    "ClientEvent",
    "ClientOptions",
    "ContextConfig",
    "ContextOverflow",
    "Descriptor",
    "EmbedOptions",
    "EmbedResult",
    "EmbedRun",
    "EndpointNotFound",
    "EndpointRef",
    "EngineCrashed",
    "EngineError",
    "EngineInfo",
    "Gateway",
    "Header",
    "InvalidModel",
    "InvalidOption",
    "LocalModel",
    "ModelError",
    "ModelNotFound",
    "ModelTooLarge",
    "MultimodalConfig",
    "ObservabilityConfig",
    "PlacementConfig",
    "PlatformError",
    "Provider",
    "QueueFull",
    "RankedDocument",
    "RateLimited",
    "RemoteError",
    "RemoteUnavailable",
    "RerankResult",
    "RerankRun",
    "ResidencyConfig",
    "Run",
    "RuntimeConfig",
    "SamplingConfig",
    "SamplingOptions",
    "SchedulerConfig",
    "SchemaMismatch",
    "SippClient",
    "SippError",
    "Status",
    "StorageError",
    "TextOptions",
    "TextResult",
    "TextRun",
    "Timings",
    "TokenBatch",
    "TokenLogprob",
    "Tool",
    "ToolsResult",
    "UnsupportedEnvironment",
    "UnsupportedModel",
    "UnsupportedOperation",
    "UnsupportedOption",
    "Usage",
    "UsageError",
    "__version__",
    "tool_schema",
]
