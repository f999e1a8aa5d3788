#!/usr/bin/python3
"""Makes golden.json: 20 steps of a small GPT-2 in PyTorch, in double precision, for parity_test.cpp to repeat.

  apt-get install python3-torch python3-numpy;  tests/parity/make_golden.py [OUT]

Nothing large is stored: the weights come from Trireme's counter-based initialisation, written here a second time in
numpy (core/rng.h, core/parameter.cpp), and the tokens from a formula. What is compared: initial weights, loss,
gradient norm and learning rate of each step. float64 makes PyTorch the judge of Trireme's float32.
"""
import json
import math
import pathlib
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

MODEL = {"layers": 3, "heads": 4, "width": 64, "context": 48, "vocab": 128}
BATCH = 6
STEPS = 20
SEED = 1234
OPTIM = {"lr": 1e-2, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0, "warmup": 5, "final": 0.1}
INIT_STD = 0.02


# --- Trireme's random numbers ---------------------------------------------------------------------------------

def philox(key, low, high):
    """Philox4x32-10: uint64 key, arrays of uint64 counters -> four arrays of 32 bits (Salmon et al., 2011)."""
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    k0, k1 = int(key) & 0xFFFFFFFF, int(key) >> 32
    low, high = np.asarray(low, np.uint64), np.asarray(high, np.uint64)
    c0, c1, c2, c3 = low & mask, low >> half, high & mask, high >> half
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & mask, (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def hash_name(name):
    mask = (1 << 64) - 1
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 & mask
    h ^= h >> 33
    h = h * 0xFF51AFD7ED558CCD & mask
    return h ^ (h >> 33)


def normal_values(name, count, std):
    """The float32 values that Init::normal(std) gives the parameter `name`."""
    mixed = philox(SEED, [hash_name(name)], [0x74726972656D65])
    key = int(mixed[1][0]) << 32 | int(mixed[0][0])
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    bits = [b.astype(np.float64) for b in philox(key, blocks, np.zeros_like(blocks))]
    values = np.empty((len(blocks), 4), np.float32)
    for i in (0, 2):  # Box-Muller
        r = np.sqrt(-2.0 * np.log((bits[i] + 1.0) * 2.0**-32))
        angle = 2.0 * math.pi * (bits[i + 1] * 2.0**-32)
        values[:, i] = r * np.cos(angle)
        values[:, i + 1] = r * np.sin(angle)
    return np.float32(std) * values.reshape(-1)[:count]


# --- The model, with the names of models/gpt.cpp --------------------------------------------------------------

class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in self.qkv(x).split(C, dim=2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(C // self.heads)
        future = torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1)
        y = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-5)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, layers, heads, width, context, vocab):
        super().__init__()
        self.wte = nn.Embedding(vocab, width)
        self.wpe = nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, eps=1e-5)

    def loss(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def initialise(model):
    """Sets every parameter; returns what parity_test.cpp checks its own against."""
    summary = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.fill_(1.0 if name.endswith("weight") else 0.0)  # norms; biases
            else:
                is_residual = name.endswith(("proj.weight", "down.weight"))
                shrink = np.sqrt(np.float32(2.0) * np.float32(MODEL["layers"])) if is_residual else np.float32(1.0)
                values = normal_values(name, p.numel(), np.float32(INIT_STD) / shrink)
                p.copy_(torch.from_numpy(values.astype(np.float64)).view(p.shape))
            flat = p.flatten()
            summary[name] = {"numel": p.numel(), "first": float(flat[0]), "last": float(flat[-1]),
                             "sum": float(flat.sum()), "sum_squares": float((flat * flat).sum())}
    return summary


# --- Data and training ----------------------------------------------------------------------------------------

def token(i):
    """The i-th token of the stream: mostly predictable from the one before, with jumps."""
    return (5 * i + i // 7 * (i // 7) % 11) % MODEL["vocab"]


def batch(step):
    """Sample b of step s (from 1) is tokens [n, n + T], n = ((s - 1) B + b) T."""
    T = MODEL["context"]
    starts = [((step - 1) * BATCH + b) * T for b in range(BATCH)]
    rows = torch.tensor([[token(n + t) for t in range(T + 1)] for n in starts])
    return rows[:, :-1], rows[:, 1:]


def learning_rate(step):
    warm = min(1.0, step / OPTIM["warmup"])
    progress = max(0.0, (step - OPTIM["warmup"]) / (STEPS - OPTIM["warmup"]))
    return OPTIM["lr"] * warm * (OPTIM["final"] + (1 - OPTIM["final"]) * 0.5 * (1 + math.cos(math.pi * progress)))


def train(model):
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": OPTIM["weight_decay"]},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=OPTIM["lr"], betas=OPTIM["betas"], eps=OPTIM["eps"])
    steps = []
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.zero_grad()
        loss = model.loss(*batch(step))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), OPTIM["clip"])
        optimizer.step()
        steps.append({"loss": loss.item(), "grad_norm": norm.item(), "lr": learning_rate(step)})
    return steps


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("golden.json"))
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    model = Gpt(**MODEL)
    initial = initialise(model)
    golden = {"made_by": f"tests/parity/make_golden.py with PyTorch {torch.__version__}, float64",
              "model": MODEL, "batch": BATCH, "seed": SEED, "optim": OPTIM, "initial": initial, "steps": train(model)}
    out.write_text(json.dumps(golden, indent=1) + "\n")
    for i, s in enumerate(golden["steps"], 1):
        print(f"step {i:2} loss {s['loss']:.9f} grad norm {s['grad_norm']:.9f} lr {s['lr']:.9f}")


if __name__ == "__main__":
    main()
