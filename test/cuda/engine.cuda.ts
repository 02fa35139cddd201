// The engine's thread with a model on the CUDA device, and what a training run takes there beside what was quoted.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { memory } from "#native";
import { configOf } from "../../bench/gpu/shapes.ts";
import { quoteOf, type Training, train } from "../../bench/gpu/training.ts";
import { Engine } from "../../packages/engine/host/engine.ts";
import { goldenPath } from "../support/golden-model.ts";

const inUse = ({ current }: { current: Record<string, number> }) =>
  Object.values(current).reduce((sum, bytes) => sum + bytes, 0);

describe("the engine's thread", () => {
  test("its memory of the device has the model while it is open; an answer comes from there", async () => {
    const engine = new Engine();
    const limits = { sequencesMax: 2, stepTokensMax: 32, cacheTokensMax: 256, waitingMax: 2 };
    const place = { modelDir: goldenPath("llama_tied_nf4_dq"), device: "auto", dtype: "float32", quant: null } as const;
    const host = inUse(await engine.memory());
    const model = await engine.openModel({ ...place, ...limits });
    assert.equal(model.info.device, "cuda");
    const report = await engine.memory("cuda");
    assert.ok(report.current.weights > 0 && report.current.activations > 0, JSON.stringify(report.current));
    assert.equal(inUse(await engine.memory()), host, "nothing of it is on the host");
    const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
    const request = { inputIds: [3, 4, 5], maxNewTokens: 3, sampling, adapterId: null };
    const { timing } = await model.generate({ ...request, ignoreEos: true, wantLogits: false });
    assert.equal(timing.newTokens, 3);
    await model.close();
    assert.equal(inUse(await engine.memory("cuda")), 0);
    await engine.close();
  });
});

describe("a training run", () => {
  const base: Training = {
    ...{ config: configOf("7b", "tiny"), device: "cuda", rank: 4, adapterDtype: "float32", cap: 0 },
    ...{ optimizer: "adamw_32bit", gradientCheckpointing: "full", steps: [[16], [9, 7]] },
  };
  const runs: [string, Partial<Training>][] = [
    ["in float32", {}],
    [
      "with an adapter in bfloat16 and paged state",
      { adapterDtype: "bfloat16", optimizer: "paged_adamw_8bit", rank: 64 },
    ],
  ];
  for (const [name, change] of runs) {
    test(`${name}: weights, adapter, gradients, optimizer and paged state take what was quoted; nothing is left`, async () => {
      const training = { ...base, ...change };
      const quoted = quoteOf(training);
      const { memory: taken } = await train(training);
      // A device's kernels have workspace of their own: it is not part of the comparison.
      for (const kind of ["weights", "adapter", "gradients", "optimizer"] as const) {
        const [got, want] = [taken.atPeak[kind], quoted.atPeak[kind]];
        assert.ok(Math.abs(got - want) <= 0.05 * want, `${kind}: ${got} taken, ${want} quoted`);
      }
      assert.equal(taken.pagedPeak, quoted.paged);
      assert.equal(inUse(memory.report("cuda")), 0);
    });
  }
});
