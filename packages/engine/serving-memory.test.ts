// What serving is said to take against what it takes, and what happens where it cannot fit.
import assert from "node:assert/strict";
import { test } from "node:test";
import { memory } from "#native";
import { openModelFolder } from "#packages/hub";
import { goldenPath } from "../../test/support/golden-model.ts";
import { storedIn } from "./run-shape.ts";
import { ServedModel } from "./served-model.ts";
import { admitServing, estimateServing, type ServingShape } from "./serving-memory.ts";

const limits = { sequencesMax: 4, stepTokensMax: 64, cacheTokensMax: 4096, waitingMax: 16 };
const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

function shapeOf(modelDir: string, dtype: ServingShape["dtype"]): ServingShape {
  using folder = openModelFolder(modelDir);
  return { config: folder.config, stored: storedIn(folder), quant: null, dtype, limits };
}

for (const dtype of ["float32", "bfloat16"] as const) {
  test(`serving in ${dtype} takes what was said`, async () => {
    const modelDir = goldenPath("llama_untied_nf4_dq");
    const said = estimateServing(shapeOf(modelDir, dtype));
    memory.trim();
    memory.resetPeak();
    const model = ServedModel.open({ modelDir, device: "cpu", dtype, quant: null, ...limits });
    const { signal } = new AbortController();
    const lengths = [limits.stepTokensMax - limits.sequencesMax + 1, 1, 1, 1];
    const answers = lengths.map((length) => {
      const request = { inputIds: new Array<number>(length).fill(3), maxNewTokens: 2, sampling, adapterId: null };
      return model.generate({ ...request, ignoreEos: true, wantLogits: false }, () => {}, signal);
    });
    await Promise.all(answers);
    const { atPeak, peakTotal } = memory.report();
    model.free();
    const far = (got: number, expected: number) => Math.abs(got - expected) > 0.01 * expected;
    assert.ok(!far(peakTotal, said.peakTotal), `expected ${said.peakTotal}, got ${peakTotal}`);
    assert.ok(!far(atPeak.activations, said.atPeak.activations), `${atPeak.activations} ${said.atPeak.activations}`);
    assert.equal(memory.report("meta").current.weights, 0);
  });
}

test("a model that cannot fit is refused with the numbers, before anything is read", () => {
  const shape = shapeOf(goldenPath("llama_untied"), "bfloat16");
  const config = { ...shape.config, layerCount: 400, hiddenSize: 65536, intermediateSize: 262144 };
  assert.throws(() => admitServing({ ...shape, config }), {
    name: "NibbleError",
    code: "RESOURCE_EXHAUSTED",
    message: /serving the model needs [\d.]+ GB \(weights [\d.]+ GB.*leaves [\d.]+ .*would help/,
  });
});

test("a cache that cannot fit is refused, and nothing stays", () => {
  const before = memory.report().current;
  const options = {
    modelDir: goldenPath("llama_untied_nf4_dq"),
    device: "cpu",
    dtype: "float32",
    quant: null,
  } as const;
  assert.throws(() => ServedModel.open({ ...options, ...limits, cacheTokensMax: 4e8 }), {
    code: "RESOURCE_EXHAUSTED",
    message: /activations \d+ GB/,
  });
  assert.deepEqual(memory.report().current, before);
});

test("a head that is most of a step is counted in 8 bits as well, one of a large model is not", () => {
  const { config, ...rest } = shapeOf(goldenPath("llama_untied_nf4_dq"), "bfloat16");
  const small = { hiddenSize: 576, intermediateSize: 1536, layerCount: 30, headCount: 9, kvHeadCount: 3, headDim: 64 };
  const large = {
    hiddenSize: 4096,
    intermediateSize: 11008,
    layerCount: 32,
    headCount: 32,
    kvHeadCount: 32,
    headDim: 128,
  };
  const bytesOfScreen = (sizes: typeof small, vocabSize: number): number => {
    const bytes = (["large", "never"] as const).map((headScreening) => {
      const shape = { ...rest, config: { ...config, ...sizes, vocabSize }, limits: { ...limits, headScreening } };
      return estimateServing(shape).atPeak.weights;
    });
    return (bytes[0] ?? 0) - (bytes[1] ?? 0);
  };
  const expected = 49152 * (576 + 3 * 4);
  const counted = bytesOfScreen(small, 49152);
  assert.ok(counted >= expected && counted < 1.13 * expected, `expected ${expected}, got ${counted}`); // size classes
  assert.equal(bytesOfScreen(large, 32000), 0);
});
