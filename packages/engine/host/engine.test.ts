// The engine's thread from the main thread: results, streams, errors, cancellation, an end in the middle.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { goldenPath } from "../../../test/support/golden-model.ts";
import { Engine } from "./engine.ts";

const limits = { sequencesMax: 2, stepTokensMax: 32, cacheTokensMax: 256, waitingMax: 2 };
const options = {
  modelDir: goldenPath("llama_tied_nf4_dq"),
  device: "cpu",
  dtype: "float32",
  quant: null,
  ...limits,
} as const;
const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
const input = (maxNewTokens: number) => ({
  inputIds: [3, 4, 5],
  maxNewTokens,
  sampling,
  adapterId: null,
  ignoreEos: true,
  wantLogits: false,
});

describe("the engine's thread", () => {
  const engine = new Engine({ threads: 2 });
  after(() => engine.close());

  test("tokens stream while the main thread stays free; errors keep their code", async () => {
    const model = await engine.openModel(options);
    const ids: number[] = [];
    const { reason, timing } = await model.generate(input(5), { onEvent: (t) => ids.push(t.id) });
    assert.deepEqual([reason, ids.length, timing.newTokens, timing.promptTokens], ["length", 5, 5, 3]);
    await assert.rejects(model.generate({ ...input(5), adapterId: "none" }), {
      name: "NibbleError",
      code: "NOT_FOUND",
    });
    await model.close();
    await assert.rejects(model.generate(input(1)), { code: "NOT_FOUND" });
  });

  test("an abort reaches the thread between two steps", async () => {
    const model = await engine.openModel(options);
    const controller = new AbortController();
    let tokens = 0;
    const onEvent = () => {
      if (++tokens === 2) controller.abort();
    };
    const { reason } = await model.generate(input(200), { signal: controller.signal, onEvent });
    assert.equal(reason, "cancelled");
    assert.ok(tokens < 200);
    await model.close();
  });

  test("a listener that throws ends its call only", async () => {
    const model = await engine.openModel(options);
    const onEvent = () => {
      throw new Error("listener");
    };
    await assert.rejects(model.generate(input(50), { onEvent }), /listener/);
    assert.equal((await model.generate(input(2))).reason, "length");
    await model.close();
  });
});

test("a thread that is ended in the middle of its steps does not take the process with it", async () => {
  for (let i = 0; i < 8; i++) {
    const engine = new Engine({ threads: 1 });
    const model = await engine.openModel(options);
    const { promise: begun, resolve } = Promise.withResolvers<void>();
    const generated = model.generate(input(200), { onEvent: () => resolve() });
    const rejected = assert.rejects(generated, { code: "UNAVAILABLE" });
    await begun;
    await engine.close();
    await rejected;
  }
});

test("a closed engine rejects what is under way and what comes later", async () => {
  const engine = new Engine();
  const opening = engine.openModel(options);
  const rejected = assert.rejects(opening, { code: "UNAVAILABLE" });
  await engine.close();
  await rejected;
  await assert.rejects(engine.memory(), { code: "UNAVAILABLE" });
});
