#!/usr/bin/env python3
"""Interchange with Hugging Face's `transformers`: models that it saves go through `trireme import` and `trireme export`
and come back with every bit of their weights; and Trireme computes the loss that transformers computes.

    python3 -m venv --system-site-packages /tmp/hf && /tmp/hf/bin/pip install transformers safetensors numpy torch
    /tmp/hf/bin/python tests/parity/hf_roundtrip.py build/bin/trireme

Not run by CTest, since Debian has no package of transformers. Run with transformers 4.38 and PyTorch 1.13.
"""
import array
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel

VOCAB, CONTEXT, SAMPLES = 199, 32, 6
CASES = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "inner width": {"n_inner": 80},
    "several files": {"max_shard_size": "30KB"},
    "bf16": {"dtype": torch.bfloat16},
}


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def make_model(seed, changes):
    torch.manual_seed(seed)
    config = GPT2Config(n_layer=2, n_head=4, n_embd=48, n_positions=CONTEXT, vocab_size=VOCAB, bos_token_id=None,
                        eos_token_id=7, **{k: v for k, v in changes.items() if k not in ("max_shard_size", "dtype")})
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # no zeros and ones: a biased or swapped tensor would not be seen
            p.add_(torch.randn_like(p) * 0.1)
    return model.to(changes.get("dtype", torch.float32))


def write_shard(path, tokens):
    """llm.c's format."""
    with open(path, "wb") as out:
        array.array("i", [20240520, 1, len(tokens)] + [0] * 253).tofile(out)
        array.array("H", tokens).tofile(out)


def torch_loss(model, tokens):
    rows = [tokens[i * CONTEXT:i * CONTEXT + CONTEXT + 1] for i in range(SAMPLES)]
    batch = torch.tensor(rows)
    with torch.no_grad():
        logits = model.float()(batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB).double(), batch[:, 1:].reshape(-1)).item()


def check(name, changes, trireme, folder):
    model = make_model(len(name), changes)
    model.save_pretrained(folder / "hf", safe_serialization=True, max_shard_size=changes.get("max_shard_size", "1GB"))
    if "max_shard_size" in changes:
        assert (folder / "hf" / "model.safetensors.index.json").exists(), "the model was to be saved in several files"
    run(trireme, "import", folder / "hf", "--out", folder / "checkpoint", "--vocab", 256)
    dtype = "bf16" if "dtype" in changes else "f32"
    run(trireme, "export", folder / "checkpoint", "--out", folder / "back", "--dtype", dtype)

    back, loading = GPT2LMHeadModel.from_pretrained(folder / "back", output_loading_info=True, torch_dtype="auto")
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"], loading
    wanted, got = model.state_dict(), back.state_dict()
    assert wanted.keys() == got.keys(), wanted.keys() ^ got.keys()
    for key in wanted:
        assert wanted[key].dtype == got[key].dtype, key
        assert torch.equal(wanted[key].view(torch.uint8) if wanted[key].dim() else wanted[key],
                           got[key].view(torch.uint8) if got[key].dim() else got[key]), key
    for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "tie_word_embeddings", "eos_token_id"):
        assert getattr(back.config, key) == getattr(model.config, key), key

    tokens = torch.randint(VOCAB, (SAMPLES * CONTEXT + 1,)).tolist()
    write_shard(folder / "data.bin", tokens)
    scored = json.loads(run(trireme, "eval", folder / "checkpoint", "--data", folder / "data.bin", "--json"))
    assert scored["tokens"] == SAMPLES * CONTEXT, scored
    loss = torch_loss(model, tokens)
    difference = abs(scored["loss"] - loss) / loss
    assert difference < 1e-5, f"loss {scored['loss']} in Trireme, {loss} in PyTorch"
    print(f"{name}: {len(wanted)} tensors bit for bit, loss {loss:.6f}, relative difference {difference:.1e}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, changes in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            check(name, changes, pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(folder))


if __name__ == "__main__":
    main()
