#!/usr/bin/env python3
"""Reads a run's event files with TensorBoard itself and compares them with its metrics.jsonl.

    python3 -m venv venv && venv/bin/pip install tensorboard 'setuptools<81'
    venv/bin/python tests/parity/tensorboard_read.py runs/my-run

Ends with status 1 when a number is missing or differs by more than f32 rounding.
"""
import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

TAGS = {"loss": "train/loss", "grad_norm": "train/grad_norm", "lr": "train/lr", "tokens_per_s": "train/tokens_per_s",
        "valid_loss": "valid/loss"}


def main():
    run = pathlib.Path(sys.argv[1])
    folders = {path.parent for path in run.rglob("*tfevents*")}
    if len(folders) != 1:
        sys.exit(f"{run}: wanted one folder of event files, got {len(folders)}")
    events = EventAccumulator(str(folders.pop()), size_guidance={SCALARS: 0})
    events.Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    checked = 0
    for key, tag in TAGS.items():
        wanted = {line["step"]: line[key] for line in lines if line.get(key) is not None}
        got = {event.step: event.value for event in events.Scalars(tag)} if wanted else {}
        for step, value in wanted.items():
            if step not in got or abs(got[step] - value) > 1e-6 * abs(value):
                sys.exit(f"{tag} of step {step}: wanted {value}, TensorBoard reads {got.get(step)}")
            checked += 1
    if not checked:
        sys.exit(f"{run}/metrics.jsonl: no numbers")
    print(f"TensorBoard reads the same {checked} numbers")


if __name__ == "__main__":
    main()
