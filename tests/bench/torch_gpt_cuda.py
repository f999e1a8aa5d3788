#!/usr/bin/env python3
"""Times PyTorch's training steps of a GPT-2 on GPUs: the rival in tests/bench/gpu_vs_torch. Prints one line of JSON.

As fast as PyTorch's documents make it: torch.compile, flash attention, fused AdamW, bf16 autocast over f32 weights, and
DistributedDataParallel with gradients as bucket views under torchrun.
"""
import argparse
import json
import os
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

# layers, heads, width
MODELS = {"gpt2-124m": (12, 12, 768), "gpt2-1558m": (48, 25, 1600)}
VOCAB, TRUE_VOCAB = 50304, 50257


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in self.qkv(self.ln_1(x)).split(C, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
        x = x + self.proj(y)
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, layers, heads, width, tokens):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, width), nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)
        self.head.weight = self.wte.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.ln_f(x)).view(-1, VOCAB), targets.reshape(-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--parallel", choices=["none", "ddp"], default="none")
    args = parser.parse_args()
    rank, world = 0, 1
    if args.parallel == "ddp":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl")
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    plain = Gpt(*MODELS[args.model], args.seq).cuda()
    net = torch.compile(plain)
    if world > 1:
        net = nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True)
    groups = [{"params": [p for p in plain.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in plain.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator(device="cuda").manual_seed(rank)
    data = torch.randint(0, TRUE_VOCAB, (8, args.batch, args.seq + 1), device="cuda", generator=generator)

    def step(i):
        batch = data[i % 8]
        with torch.autocast("cuda", torch.bfloat16):
            loss = net(batch[:, :-1], batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    first_loss = step(0).item()
    for i in range(1, args.warmup):
        step(i)
    seconds = []
    for i in range(args.steps):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        step(i)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    if rank == 0:
        print(json.dumps({"tokens_per_s": world * args.batch * args.seq / statistics.median(seconds), "first_loss": first_loss,
                          "peak_gib": torch.cuda.max_memory_allocated() / 2**30, "torch": torch.__version__}))
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
