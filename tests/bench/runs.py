"""What the benchmarks of this folder share: random tokens, and runs of the command that are measured by their metrics."""
import array
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(sys.argv[0]).name


def fail(message):
    sys.exit(f"{PROGRAM}: {message}")


def write_tokens(path, vocab, count=1 << 20, below=None):
    """A shard of random tokens in llm.c's format."""
    rng = random.Random(vocab)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        array.array("i", [20240520, 1, count] + [0] * 253).tofile(out)
        array.array("H", (rng.randrange(below or vocab) for _ in range(count))).tofile(out)


def make_tokens(vocab, below=None):
    """The shard where configs/bench look for it, made once."""
    path = pathlib.Path(f"runs/bench/tokens_{vocab}.bin")
    if not path.exists():
        write_tokens(path, vocab, below=below)
    return path


def run(command, environment=None):
    done = subprocess.run(list(map(str, command)), env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        fail(f"{' '.join(map(str, command))} gave status {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def train(trireme, config, ranks, overrides, out, warm_steps, environment=None):
    """One run, its first `warm_steps` not counted: {tokens_per_s, peak_gib (rank 0's), first_loss, step_ms (of each that
    counts), text}."""
    shutil.rmtree(out, ignore_errors=True)
    command = [trireme, "launch", config, "-n", ranks] if ranks > 1 else [trireme, "train", config]
    for override in [f"run.out={out}", "checkpoint.at_end=false", *overrides]:
        command += ["--set", override]
    text = run(command, environment)
    lines = [json.loads(line) for line in (pathlib.Path(out) / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step_ms" in line]
    peak = re.search(r"peak memory ([\d.]+) (GiB|MiB)", text)
    if len(steps) <= warm_steps or not peak:
        fail(f"{' '.join(map(str, command))}: wanted more than {warm_steps} steps and the peak memory:\n{text[-4000:]}")
    return {"tokens_per_s": statistics.median(line["tokens_per_s"] for line in steps[warm_steps:]),
            "step_ms": [line["step_ms"] for line in steps[warm_steps:]],
            "peak_gib": float(peak[1]) / (1 if peak[2] == "GiB" else 1024), "first_loss": steps[0]["loss"], "text": text}
