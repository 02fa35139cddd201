// The engine's thread with a model on the CUDA device, and what a training run takes there beside what was quoted.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { kinds, memory } from "#native";
import { configOf } from "../../bench/gpu/shapes.ts";
import { quoteOf, type Training, train } from "../../bench/gpu/training.ts";
import { Engine } from "../../packages/engine/host/engine.ts";
import { storedIn } from "../../packages/engine/run-shape.ts";
import { ServedModel } from "../../packages/engine/served-model.ts";
import { estimateServing } from "../../packages/engine/serving-memory.ts";
import { openModelFolder } from "../../packages/hub/index.ts";
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

test("a served model takes what was said, recorded steps among it", async () => {
  const modelDir = goldenPath("llama_tied_nf4_dq");
  const limits = { sequencesMax: 4, stepTokensMax: 64, cacheTokensMax: 4 * 256, waitingMax: 8 };
  using folder = openModelFolder(modelDir);
  const shape = { config: folder.config, stored: storedIn(folder), quant: null, limits } as const;
  const said = estimateServing({ ...shape, device: "cuda", dtype: "bfloat16" });
  memory.trim("cuda");
  memory.resetPeak("cuda");
  const model = ServedModel.open({ modelDir, device: "cuda", dtype: "bfloat16", quant: null, ...limits });
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
  const ask = (tokens: number, maxNewTokens: number) => {
    const request = { inputIds: new Array<number>(tokens).fill(3), maxNewTokens, sampling, adapterId: null };
    const { signal } = new AbortController();
    return model.generate({ ...request, ignoreEos: true, wantLogits: false }, () => {}, signal);
  };
  const largest = limits.stepTokensMax - limits.sequencesMax + 1;
  // One, two and four sequences, of one page to most that the positions allow.
  for (const count of [1, 2, 4]) {
    for (const tokens of [2, 18, 66]) await Promise.all(Array.from({ length: count }, () => ask(tokens, 3)));
  }
  await Promise.all([ask(largest, 2), ask(1, 2), ask(1, 2), ask(1, 2)]);
  const { atPeak, peakTotal } = memory.report("cuda");
  model.free();
  const figures = `taken ${peakTotal} ${JSON.stringify(atPeak)}, said ${said.peakTotal} ${JSON.stringify(said.atPeak)}`;
  assert.ok(Math.abs(peakTotal - said.peakTotal) <= 0.05 * said.peakTotal, figures);
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
    test(`${name}: what was quoted is what is taken, of each kind and together; nothing is left`, async () => {
      const training = { ...base, ...change };
      const quoted = quoteOf(training);
      const { memory: taken } = await train(training);
      const figures = `taken ${JSON.stringify(taken.atPeak)}, quoted ${JSON.stringify(quoted.atPeak)}`;
      const isNear = (got: number, want: number) => Math.abs(got - want) <= 0.05 * want;
      for (const kind of kinds) assert.ok(isNear(taken.atPeak[kind], quoted.atPeak[kind]), `${kind}: ${figures}`);
      assert.ok(isNear(taken.peakTotal, quoted.peakTotal), figures);
      assert.equal(taken.pagedPeak, quoted.paged);
      assert.equal(inUse(memory.report("cuda")), 0);
    });
  }
});
