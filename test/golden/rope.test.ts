// The scaling variants of rotary embeddings against transformers' own frequencies (make_rope.py).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseLlamaConfig } from "#packages/hub";
import { ropeFrequencies, ropeTables } from "../../packages/engine/rope.ts";
import { goldenPath } from "../support/golden-model.ts";

interface Case {
  name: string;
  positions: number;
  config: Record<string, unknown>;
  inverse: number[];
  factor: number;
}

const { cases }: { cases: Case[] } = JSON.parse(readFileSync(goldenPath("rope.json"), "utf8"));
const rest = { architectures: ["LlamaForCausalLM"], intermediate_size: 64, num_hidden_layers: 1, vocab_size: 8 };

for (const c of cases) {
  test(`${c.name}, ${c.positions} positions`, () => {
    const { rope, headDim } = parseLlamaConfig({ ...rest, ...c.config }, null, "config.json");
    const { inverse, factor } = ropeFrequencies(rope, headDim, c.positions);
    assert.ok(Math.abs(factor - c.factor) < 1e-7, `factor ${factor}, expected ${c.factor}`);
    c.inverse.forEach((want, j) => {
      const got = inverse[j] ?? Number.NaN;
      assert.ok(Math.abs(got - want) <= 2e-6 * want, `frequency ${j}: ${got}, expected ${want}`);
    });
  });
}

test("tables hold cos and sin of position times frequency", () => {
  const { cos, sin } = ropeTables({ theta: 10000, scaling: { type: "default" } }, 4, 3, "cpu");
  const [c, s] = [cos.toFloat32(), sin.toFloat32()];
  assert.deepEqual([c[0], s[0]], [1, 0]);
  assert.ok(Math.abs((c[4] ?? 0) - Math.cos(2)) < 1e-7);
  assert.ok(Math.abs((s[5] ?? 0) - Math.sin(2 * 0.01)) < 1e-7);
  cos.free();
  sin.free();
});
