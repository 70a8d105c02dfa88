#!/usr/bin/env python3
"""Make a model of another quantisation, to measure engines with: `requantise.py MODEL.gguf Q4_0|Q8_0|Q4_1|F16 OUT.gguf`

Needs `pip install gguf`. Matrices that are of a smaller kind than 8 bits are converted; what the model keeps in 8 bits
or more (its embeddings, its norms) stays, but for F16. Numbers that were rounded once are rounded again: fit for
measuring speed, not for use. What is written depends on the input alone, so that everybody measures the same file.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Container
from pathlib import Path

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize

KINDS = ("Q4_0", "Q4_1", "Q8_0", "F16")
_FLOATS = {"F32", "F16", "BF16"}
_OWN_FIELDS = ("GGUF.", "general.architecture", "general.file_type")


def requantise(source: Path, kind: str, target: Path, kept: Container[str]) -> str:
    """Writes the model anew; tensors of the kinds in ``kept`` stay as they are. Returns the SHA-256 of the new file."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith(_OWN_FIELDS):
            sub_type = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}"])
    wanted = GGMLQuantizationType[kind]
    for tensor in reader.tensors:
        stays = tensor.tensor_type.name in kept
        data = tensor.data if stays else _converted(tensor.data, tensor.tensor_type, wanted)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type if stays else wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hashlib.sha256(target.read_bytes()).hexdigest()


def _converted(data: numpy.ndarray, old: GGMLQuantizationType, new: GGMLQuantizationType) -> numpy.ndarray:
    return quantize(numpy.ascontiguousarray(dequantize(data, old)), new)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    kept = _FLOATS if options.kind == "F16" else _FLOATS | {"Q8_0"}
    print(requantise(options.source, options.kind, options.target, kept), options.target)


if __name__ == "__main__":
    main()
