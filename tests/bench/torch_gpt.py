#!/usr/bin/python3
"""Times PyTorch's training steps of a GPT-2 on CPU: the rival in tests/bench/vs_torch, which sets the environment that
makes it fast (BLAS kernels of this CPU, one thread pool, huge pages, memory kept by malloc). Prints one line of JSON.

Float32, AdamW with decay on matrices, clipping at 1.0, dropout 0: what configs/bench/*.yaml ask of Trireme. With RANK
and WORLD_SIZE set, a rank of DistributedDataParallel over gloo; sample i of a step goes to rank i / batch.
"""
import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

# layers, heads, width, vocabulary
MODELS = {"char": (6, 6, 384, 256), "124m": (12, 12, 768, 50304)}
HEADER_BYTES = 1024  # of llm.c's .bin


class Block(nn.Module):
    def __init__(self, width, heads, layers, tokens):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        for residual in (self.proj, self.down):
            nn.init.normal_(residual.weight, 0.0, 0.02 / math.sqrt(2 * layers))
        for inner in (self.qkv, self.up):
            nn.init.normal_(inner.weight, 0.0, 0.02)
        for linear in (self.qkv, self.proj, self.up, self.down):
            nn.init.zeros_(linear.bias)
        mask = torch.full((tokens, tokens), -math.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def attention(self, x):
        B, T, C = x.shape
        D = C // self.heads
        q, k, v = (t.view(B, T, self.heads, D).transpose(1, 2) for t in self.qkv(x).split(C, dim=2))
        weights = ((q * D**-0.5) @ k.transpose(-2, -1)).add_(self.mask).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, T, C))

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, layers, heads, width, vocab, tokens):
        super().__init__()
        self.wte = nn.Embedding(vocab, width)
        self.wpe = nn.Embedding(tokens, width)
        nn.init.normal_(self.wte.weight, 0.0, 0.02)
        nn.init.normal_(self.wpe.weight, 0.0, 0.02)
        self.h = nn.ModuleList(Block(width, heads, layers, tokens) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batches(path, batch, tokens, rank, world):
    """Samples in the order of the file, as `data.shuffle: false` reads them."""
    stream = np.memmap(path, np.uint16, mode="r", offset=HEADER_BYTES)
    step = 0
    while True:
        starts = [((step * world + rank) * batch + i) * tokens for i in range(batch)]
        rows = torch.from_numpy(np.stack([stream[s:s + tokens + 1] for s in starts]).astype(np.int64))
        yield rows[:, :-1], rows[:, 1:]
        step += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--data", required=True, help="a .bin shard of llm.c's format")
    parser.add_argument("--batch", type=int, required=True, help="samples of a step on one rank")
    parser.add_argument("--tokens", type=int, default=256, help="of a sample")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)

    layers, heads, width, vocab = MODELS[args.model]
    model = Gpt(layers, heads, width, vocab, args.tokens)
    parameters = list(model.parameters())
    step_model = model
    if world > 1:
        torch.distributed.init_process_group("gloo")
        step_model = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW([{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
                                   {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}],
                                  lr=3e-4, betas=(0.9, 0.95), foreach=False)
    step_ms, losses = [], []
    data = batches(args.data, args.batch, args.tokens, rank, world)
    for _ in range(args.steps):
        begin = time.perf_counter()
        loss = step_model(*next(data))
        optimizer.zero_grad(set_to_none=world == 1)  # DDP's buckets are the gradients: they stay
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        step_ms.append(1e3 * (time.perf_counter() - begin))
    print(json.dumps({"step_ms": step_ms, "loss": losses}), flush=True)


if __name__ == "__main__":
    main()
