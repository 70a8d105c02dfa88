"""Frames of wllama 3.8.1's message protocol: what its C++ side reads and writes.

A frame is the magic ``GLUE``, a version, the message's eight-byte name, and its fields in order. A field is a 32-bit
type tag (0 stands for null) and its value; numbers are little-endian, strings and byte strings carry their length.
Field lists are facts of the protocol, from the package's ``glue/messages.ts``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from ..errors import EngineCrashed

MAGIC = b"GLUE"
VERSION = 1
HEADER = struct.Struct("<4sI8s")

TAGS = {
    "null": 0,
    "bool": 1,
    "int": 2,
    "float": 3,
    "str": 4,
    "raw": 5,
    "arr_bool": 6,
    "arr_int": 7,
    "arr_float": 8,
    "arr_str": 9,
    "arr_raw": 10,
}


def _fields(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for kind, _, names in map(_partition, text.split(";")) for name in names)


def _partition(part: str) -> tuple[str, str, list[str]]:
    kind, colon, names = part.partition(":")
    return kind.strip(), colon, names.split()


MESSAGES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "load_req": _fields(
        "arr_str: model_paths; str: mmproj_path; bool: n_ctx_auto use_mmap use_mlock;"
        "int: n_gpu_layers n_ctx n_threads;"
        "str: model_alias; int: log_level; bool: embeddings offload_kqv; int: n_batch n_ubatch n_parallel;"
        "str: pooling_type rope_scaling_type; float: rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor"
        " yarn_beta_fast yarn_beta_slow; int: yarn_orig_ctx; str: cache_type_k cache_type_v;"
        "bool: kv_unified flash_attn swa_full; int: n_ctx_checkpoints checkpoint_min_step; str: chat_template;"
        "bool: jinja; arr_str: default_template_kwargs_keys default_template_kwargs_vals; bool: reasoning;"
        "int: image_min_tokens image_max_tokens; bool: warmup no_kv_offload mmproj_offload cont_batching; int: n_keep;"
        "bool: ctx_shift cache_idle_slots; int: n_cache_reuse; arr_str: lora_paths; arr_float: lora_scales;"
        "bool: lora_init_without_apply; str: spec_draft_model; int: spec_draft_ngl spec_draft_n_max spec_draft_n_min;"
        "float: spec_draft_p_min; int: spec_draft_threads spec_draft_threads_batch;"
        "arr_str: kv_overrides_keys kv_overrides_vals; int: reasoning_budget_tokens; str: reasoning_budget_message"
        " reasoning_format; bool: skip_chat_parsing prefill_assistant"
    ),
    "load_res": _fields(
        "bool: success; int: n_ctx n_batch n_ubatch n_vocab n_ctx_train n_embd n_layer;"
        "arr_str: metadata_key metadata_val;"
        "int: token_bos token_eos token_eot; arr_int: list_tokens_eog; bool: add_bos_token add_eos_token has_encoder;"
        "int: token_decoder_start; str: media_marker; bool: has_image_input has_audio_input"
    ),
    "cmpl_req": _fields("bool: is_chat; str: data_json; arr_raw: files"),
    "cmpl_res": _fields("bool: success; int: req_id"),
    "embd_req": _fields("str: data_json; arr_raw: files"),
    "embd_res": _fields("bool: success; int: req_id"),
    "rrnk_req": _fields("str: data_json"),
    "rrnk_res": _fields("bool: success; int: req_id"),
    "gres_req": _fields("int: req_id"),
    "gres_res": _fields("bool: success has_more is_error; str: data_json"),
    "cncl_req": _fields("int: req_id"),
    "cncl_res": _fields("bool: success"),
}


def field_offset(message: str, field: str) -> int:
    """Byte offset of a field's value, where every field before it is a number or a flag."""
    offset = HEADER.size
    for name, kind in MESSAGES[message]:
        if name == field:
            return offset + 4
        if kind not in ("bool", "int", "float"):
            raise ValueError(f"{message}.{field} has no fixed place: {name} before it varies in length")
        offset += 8
    raise KeyError(f"{message} has no field {field}")


def encode(message: str, values: Mapping[str, Any]) -> bytes:
    """A frame. Fields that are absent or ``None`` are written as null."""
    fields = MESSAGES[message]
    unknown = set(values) - {name for name, _ in fields}
    if unknown:
        raise KeyError(f"{message} has no field {', '.join(sorted(unknown))}")
    parts = [HEADER.pack(MAGIC, VERSION, message.encode())]
    for name, kind in fields:
        value = values.get(name)
        if value is None:
            parts.append(struct.pack("<I", TAGS["null"]))
        else:
            parts.append(struct.pack("<I", TAGS[kind]))
            _write(parts, kind, value)
    return b"".join(parts)


def decode(frame: bytes) -> dict[str, Any]:
    """The values of a frame, by field name.

    Raises:
        EngineCrashed: the bytes are not a frame of this protocol: the engine's memory can't be trusted any more.
    """
    try:
        magic, version, name = HEADER.unpack_from(frame)
        fields = MESSAGES[name.decode()]
        if magic != MAGIC or version != VERSION:
            raise ValueError(f"magic {magic!r}, version {version}")
        values: dict[str, Any] = {}
        offset = HEADER.size
        for field, kind in fields:
            (tag,) = struct.unpack_from("<I", frame, offset)
            offset += 4
            if tag == TAGS["null"]:
                values[field] = None
                continue
            if tag != TAGS[kind]:
                raise ValueError(f"{field} has tag {tag} instead of {TAGS[kind]}")
            values[field], offset = _read(frame, offset, kind)
    except (ValueError, KeyError, struct.error) as error:
        raise EngineCrashed("The engine's reply is not a message of its protocol.") from error
    return values


def _write(parts: list[bytes], kind: str, value: Any) -> None:
    if kind.startswith("arr_"):
        parts.append(struct.pack("<I", len(value)))
        for item in value:
            _write(parts, kind[4:], item)
    elif kind == "bool":
        parts.append(struct.pack("<I", bool(value)))
    elif kind == "int":
        parts.append(struct.pack("<i", value))
    elif kind == "float":
        parts.append(struct.pack("<f", value))
    else:
        data = value.encode() if kind == "str" else bytes(value)
        parts.append(struct.pack("<I", len(data)))
        parts.append(data)


def _read(frame: bytes, offset: int, kind: str) -> tuple[Any, int]:
    if kind.startswith("arr_"):
        (count,) = struct.unpack_from("<I", frame, offset)
        offset += 4
        items = []
        for _ in range(count):
            item, offset = _read(frame, offset, kind[4:])
            items.append(item)
        return items, offset
    if kind == "bool":
        return struct.unpack_from("<I", frame, offset)[0] != 0, offset + 4
    if kind in ("int", "float"):
        return struct.unpack_from("<i" if kind == "int" else "<f", frame, offset)[0], offset + 4
    (length,) = struct.unpack_from("<I", frame, offset)
    data = frame[offset + 4 : offset + 4 + length]
    if len(data) != length:
        raise ValueError("cut short")
    return (data.decode() if kind == "str" else data), offset + 4 + length
