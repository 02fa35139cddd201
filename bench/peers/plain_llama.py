"""A Llama with LoRA on every linear layer in plain PyTorch, for gpu_step.py where transformers and PEFT are not installed."""

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Adapted(torch.nn.Module):
    def __init__(self, base, rank, device):
        super().__init__()
        self.base, self.scaling = base, 16 / rank
        self.a = torch.nn.Parameter(torch.randn(rank, base.in_features, device=device) * 0.02)
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.a), self.b) * self.scaling


class Norm(torch.nn.Module):
    def __init__(self, hidden, device):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden, device=device, dtype=torch.bfloat16), requires_grad=False)

    def forward(self, x):
        of = x.float()
        return self.weight * (of * torch.rsqrt(of.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def rotated(x, cos, sin):
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Block(torch.nn.Module):
    def __init__(self, shape, linear, device):
        super().__init__()
        hidden, ffn, self.heads, self.kv_heads = shape
        self.size = hidden // self.heads
        self.q, self.o = linear(hidden, hidden), linear(hidden, hidden)
        self.k, self.v = (linear(hidden, self.kv_heads * self.size) for _ in range(2))
        self.gate, self.up, self.down = linear(hidden, ffn), linear(hidden, ffn), linear(ffn, hidden)
        self.before_attention, self.before_mlp = Norm(hidden, device), Norm(hidden, device)

    def forward(self, x, cos, sin):
        batch, rows, hidden = x.shape
        n = self.before_attention(x)
        q, k, v = (
            f(n).view(batch, rows, -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        if self.kv_heads < self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(attended.transpose(1, 2).reshape(batch, rows, hidden))
        n = self.before_mlp(x)
        return x + self.down(F.silu(self.gate(n)) * self.up(n))


class Llama(torch.nn.Module):
    """Called as transformers' model: the loss of ids, each block checkpointed."""

    def __init__(self, hidden, ffn, layers, heads, kv_heads, vocab, rank, make, device):
        super().__init__()
        linear = lambda n_in, n_out: Adapted(make(n_in, n_out), rank, device)
        self.blocks = torch.nn.ModuleList(Block((hidden, ffn, heads, kv_heads), linear, device) for _ in range(layers))
        self.norm, self.size = Norm(hidden, device), hidden // heads
        table = lambda: torch.randn(vocab, hidden, device=device, dtype=torch.bfloat16) * 0.02
        self.embedding, self.head = table(), table()

    def forward(self, input_ids):
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        powers = torch.arange(0, self.size, 2, device=input_ids.device) / self.size
        angles = (positions[:, None] / 10_000**powers).repeat(1, 2)
        cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
        x = F.embedding(input_ids, self.embedding).requires_grad_()
        for block in self.blocks:
            x = checkpoint(block, x, cos, sin, use_reentrant=False)
        logits = F.linear(self.norm(x), self.head).float()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
