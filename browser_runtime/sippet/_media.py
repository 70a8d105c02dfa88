"""Images on their way to a model: read from wherever they are, checked, and put where the engine looks for them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from . import platform
from .errors import InvalidOption, ModelNotFound, UnsupportedOption

MARKER = "<__media__>"
"""Stands for an image in a raw prompt."""

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
}
"""What the engine's decoder reads, by the first bytes."""


def parts_of(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The parts of a message's content; none where it is a text."""
    content = message.get("content")
    return content if isinstance(content, list) else ()


def has_images(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a conversation holds an image."""
    return any(part.get("type") in ("image", "image_url") for message in messages for part in parts_of(message))


def refuse_images(has_vision: bool | None) -> None:
    """Refuse images by name where the model is known to be blind.

    Raises:
        UnsupportedOption: names ``media``.
    """
    if has_vision is False:
        raise UnsupportedOption(
            "media",
            "This model reads text only: it can't take media.",
            hint="Add a vision model together with its projector: LocalModel(source, projector=...).",
        )


async def with_images(messages: Sequence[dict[str, Any]], media: Sequence[Any], *, fetch: bool) -> list[dict[str, Any]]:
    """A conversation with every image as an OpenAI ``image_url`` part.

    Args:
        messages: may hold ``{"type": "image", "image": bytes, path, URL or Blob}`` parts and OpenAI's own.
        media: more images, added to the last user message.
        fetch: turn addresses into data too, for an engine that can't fetch.
    """
    done = [await _with_data(message, fetch) for message in messages]
    if media:
        last = next((i for i in range(len(done) - 1, -1, -1) if done[i]["role"] == "user"), None)
        if last is None:
            raise InvalidOption("media", "media needs a user message to go with.")
        content = done[last]["content"]
        texts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        done[last] = {**done[last], "content": [*[await _image_part(item) for item in media], *texts]}
    return done


async def with_markers(prompt: str, media: Sequence[Any], marker: str) -> tuple[str, tuple[bytes, ...]]:
    """A raw prompt with the engine's own markers, and the images' bytes in order.

    Raises:
        InvalidOption: the prompt has another number of markers than there are images.
    """
    images = tuple([await read_image(item) for item in media])
    count = prompt.count(MARKER)
    if count == 0:
        prompt = MARKER * len(images) + prompt
    elif count != len(images):
        raise InvalidOption("media", f"The prompt has {count} times {MARKER}, and media has {len(images)} images.")
    return prompt.replace(MARKER, marker), images


async def read_image(item: Any) -> bytes:
    """The bytes of an image.

    Args:
        item: bytes, a ``data:`` URL, or what this platform opens: a path, a URL, a Blob.

    Raises:
        InvalidOption: there is no image, or not of a kind that the engine reads.
    """
    if isinstance(item, (bytes, bytearray, memoryview)):
        data = bytes(item)
    elif isinstance(item, str) and item.startswith("data:"):
        data = _from_data_url(item)
    else:
        try:
            source = await platform.current().open_source(item, lambda done, total: None)
        except ModelNotFound as error:
            raise InvalidOption("media", f"There is no image at {item}.", hint="Check the path or address.") from error
        data = await source.read(0, source.size)
    _kind(data)
    return data


async def _with_data(message: dict[str, Any], fetch: bool) -> dict[str, Any]:
    if not parts_of(message):
        return message
    return {**message, "content": [await _part(part, fetch) for part in parts_of(message)]}


async def _part(part: Mapping[str, Any], fetch: bool) -> Mapping[str, Any]:
    if part.get("type") == "image":
        return await _image_part(part.get("image"))
    if part.get("type") == "image_url":
        address = part.get("image_url")
        url = address.get("url") if isinstance(address, Mapping) else address
        if not isinstance(url, str):
            raise InvalidOption("messages", "An image_url part has no URL.")
        if fetch and not url.startswith("data:"):
            return await _image_part(url)
        return {"type": "image_url", "image_url": {**(address if isinstance(address, Mapping) else {}), "url": url}}
    return part


async def _image_part(item: Any) -> dict[str, Any]:
    data = await read_image(item)
    url = f"data:{_kind(data)};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _from_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("no base64")
        return base64.b64decode(body, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidOption("media", "An image's data: URL is damaged.", hint="Use data:image/png;base64,…") from error


def _kind(data: bytes) -> str:
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    raise InvalidOption(
        "media", "media is not an image of a known kind.", hint="The engine reads PNG, JPEG, GIF and BMP."
    )
