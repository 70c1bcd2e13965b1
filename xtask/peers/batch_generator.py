"""Throughput of mlx-lm's BatchGenerator, greedy, nothing stopping early. Prints one line of JSON."""

import argparse
import json
import random
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.utils import load_model


def generate(model, prompts, batch, max_tokens):
    """Returns how many tokens were generated."""
    generator = BatchGenerator(
        model,
        max_tokens=max_tokens,
        completion_batch_size=batch,
        prefill_batch_size=min(8, batch),
    )
    generator.insert(prompts)
    tokens = 0
    while responses := generator.next_generated():
        tokens += len(responses)
    generator.close()
    return tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    arguments = parser.parse_args()

    model, config = load_model(arguments.model)
    mx.eval(model.parameters())
    chosen = random.Random(0)
    vocabulary = config["vocab_size"]
    prompts = [
        [chosen.randrange(100, vocabulary) for _ in range(arguments.prompt_tokens)]
        for _ in range(arguments.requests)
    ]
    generate(model, prompts[: arguments.batch], arguments.batch, 4)
    start = time.perf_counter()
    tokens = generate(model, prompts, arguments.batch, arguments.max_tokens)
    duration = time.perf_counter() - start
    assert tokens == arguments.requests * arguments.max_tokens, tokens
    print(json.dumps({"duration_s": duration, "decode_tokens_per_s": tokens / duration}))


if __name__ == "__main__":
    main()
