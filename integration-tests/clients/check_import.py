"""Compares an imported model folder with MLX's own GGUF loader, array by array and bit by bit.

    python check_import.py FILE.gguf DIR

Needs mlx and numpy. Prints "N arrays equal" and exits 0, or names every difference and exits 1. A float32 folder is held
to the values that MLX itself computes from the loaded scales and biases; a quantized folder to the packed words and to
the scales and biases. That every array begins at a multiple of 64 bytes is checked too.
"""

import json
import pathlib
import struct
import sys

import mlx.core as mx
import numpy as np

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hugging_face_name(module):
    if module.startswith("blk."):
        _, layer, rest = module.split(".", 2)
        return f"model.layers.{layer}.{LAYER_NAMES[rest]}"
    return OTHER_NAMES[module]


def halves_side_by_side(array, head_dim):
    """Undoes the interleaving of a query or key matrix's rotary halves."""
    rows, columns = array.shape
    heads = array.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return heads.swapaxes(1, 2).reshape(rows, columns)


def expected_arrays(source, config):
    """The arrays MLX reads from the GGUF file, under Hugging Face's names and in Hugging Face's row order."""
    arrays = {}
    for name, array in source.items():
        module, part = name.rsplit(".", 1)
        if module.endswith(("attn_q", "attn_k")):
            array = halves_side_by_side(array, config["head_dim"])
        arrays[f"{hugging_face_name(module)}.{part}"] = array
    return arrays


def dequantized(arrays):
    result = {}
    for name, array in arrays.items():
        module, part = name.rsplit(".", 1)
        if part in ("scales", "biases"):
            continue
        if f"{module}.scales" in arrays:
            scales = arrays[f"{module}.scales"].astype(mx.float32)
            biases = arrays[f"{module}.biases"].astype(mx.float32)
            bits = array.shape[-1] * 32 // (scales.shape[-1] * 32)
            array = mx.dequantize(array, scales, biases, group_size=32, bits=bits)
        result[name] = array.astype(mx.float32)
    return result


def with_float32_scales(arrays):
    is_scale = lambda name: name.endswith((".scales", ".biases"))
    return {name: array.astype(mx.float32) if is_scale(name) else array for name, array in arrays.items()}


def misaligned(path):
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    start = 8 + header_bytes
    names = (name for name in header if not name.startswith("__padding_"))
    return [name for name in names if (start + header[name]["data_offsets"][0]) % 64]


def difference(expected, found):
    if expected is None:
        return "is not in the GGUF file"
    if found is None:
        return "was not imported"
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return f"is {found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}"
    unequal = int((np.array(expected).view(np.uint8) != np.array(found).view(np.uint8)).sum())
    return f"differs in {unequal} bytes" if unequal else None


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    mx.set_default_device(mx.cpu)
    directory = pathlib.Path(sys.argv[2])
    config = json.loads((directory / "config.json").read_text())
    expected = expected_arrays(mx.load(sys.argv[1]), config)
    expected = with_float32_scales(expected) if "quantization" in config else dequantized(expected)
    weights = directory / "model.safetensors"
    found = {name: array for name, array in mx.load(str(weights)).items() if not name.startswith("__padding_")}

    problems = [f"{name} does not begin at a multiple of 64 bytes" for name in misaligned(weights)]
    names = sorted(expected.keys() | found.keys())
    for name in names:
        problem = difference(expected.get(name), found.get(name))
        if problem:
            problems.append(f"{name} {problem}")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(names)} arrays equal")


if __name__ == "__main__":
    main()
