"""The load that every peer gets, whatever its engine. Prints one line of JSON that xtask/src/bench/peer.rs reads."""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

QUESTION_TOKENS = 8


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--load", type=Path, required=True, help="JSON: decode, short, long: lists of ids; questions: texts")
    parser.add_argument("--concurrency", type=int, nargs="+", required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args()


def peak_rss_mb():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1000 * 1.024


def pss_mb():
    """Proportional set size now, or None where the system does not tell."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        return None
    lines = rollup.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1.024 / 1000


def first_token_ms(engine, prompts):
    """Median time to a prompt's first token, each prompt alone."""
    times = []
    for prompt in prompts:
        start = time.perf_counter()
        engine.generate([prompt], 1)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def decode(engine, prompts, max_tokens):
    start = time.perf_counter()
    answers = engine.generate(prompts, max_tokens)
    duration = time.perf_counter() - start
    return {"concurrency": len(prompts), "tokens_per_s": sum(map(len, answers)) / duration, "answers": answers}


def measure(engine, chosen):
    """Runs the load. `engine.generate(prompts, max_tokens)` returns for each prompt exactly so many greedy ids, the end token
    ignored, all prompts at once, nothing kept from earlier calls."""
    load = json.loads(chosen.load.read_text())
    answers = [
        engine.decode(engine.generate([engine.encode(question)], QUESTION_TOKENS)[0]) for question in load["questions"]
    ]
    runs = []
    for concurrency in chosen.concurrency:
        prompts = load["decode"][:concurrency]
        engine.generate(prompts, 4)
        runs.append(decode(engine, prompts, chosen.max_tokens))
    result = {
        "runs": runs,
        "short_ms": first_token_ms(engine, load["short"]),
        "long_ms": first_token_ms(engine, load["long"]),
        "peak_rss_mb": peak_rss_mb(),
        "pss_mb": pss_mb(),
        "answers": answers,
    }
    print(json.dumps(result))
