// A head that is read in 8 bits first: tokens are those of the whole head, alone and in a batch, and log-probabilities
// are never made of 8 bits.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chooseIsa, memory, type SamplingOptions, supportedIsas } from "#native";
import { restoreRuntimeAfterTests } from "../../../test/support/runtime.ts";
import { ServedModel } from "../served-model.ts";
import type { HeadScreening } from "./head.ts";
import type { GeneratedToken } from "./sequence.ts";

restoreRuntimeAfterTests();

const modelDir = fileURLToPath(new URL("../../../models/quickstart", import.meta.url));
const greedy: SamplingOptions = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 3 };
const samplings: Record<string, SamplingOptions> = {
  greedy,
  "top-k": { ...greedy, temperature: 1.5, topK: 20 },
  "top-k, top-p and min-p": { ...greedy, temperature: 1.2, topK: 50, topP: 0.9, minP: 0.02 },
};
const prompts = [[1, 40, 300, 7], [5], [900, 12, 77, 3, 250, 19]];

function open(headScreening: HeadScreening): ServedModel {
  const quant = { type: "nf4", blockSize: 64, doubleQuant: true } as const;
  const limits = { sequencesMax: 4, stepTokensMax: 64, cacheTokensMax: 512, waitingMax: 8 };
  return ServedModel.open({ modelDir, device: "cpu", dtype: "bfloat16", quant, ...limits, headScreening });
}

async function answer(model: ServedModel, inputIds: number[], sampling: SamplingOptions, wantLogprobs: boolean) {
  const tokens: GeneratedToken[] = [];
  const request = { inputIds, maxNewTokens: 24, sampling, adapterId: null, ignoreEos: true, wantLogits: false };
  await model.generate({ ...request, wantLogprobs }, (t) => tokens.push(t), new AbortController().signal);
  return tokens;
}

const idsOf = (tokens: GeneratedToken[]) => tokens.map((t) => t.id);

describe("a screened head", () => {
  for (const set of supportedIsas()) {
    test(`answers with the tokens of the whole head: ${set}`, async () => {
      chooseIsa(set);
      const [whole, screened] = [open("never"), open("always")];
      for (const [name, sampling] of Object.entries(samplings)) {
        const expected: number[][] = [];
        for (const prompt of prompts) {
          expected.push(idsOf(await answer(whole, prompt, sampling, true)));
          assert.deepEqual(idsOf(await answer(screened, prompt, sampling, false)), expected.at(-1), name);
        }
        const together = await Promise.all(prompts.map((prompt) => answer(screened, prompt, sampling, false)));
        assert.deepEqual(together.map(idsOf), expected, `${name}, in a batch`);
      }
      whole.free();
      screened.free();
    });
  }

  test("log-probabilities are those of the whole head, or none", async () => {
    const [whole, screened] = [open("never"), open("always")];
    const [prompt = []] = prompts;
    const exact = await answer(whole, prompt, greedy, true);
    // Another request of the same steps that wants none changes nothing.
    const [wanted, none] = await Promise.all([
      answer(screened, prompt, greedy, true),
      answer(screened, [9, 8, 7], greedy, false),
    ]);
    assert.deepEqual(wanted, exact);
    assert.ok(none.every((t) => Number.isNaN(t.logprob)));
    whole.free();
    screened.free();
  });

  test("is counted with the weights, and given back", () => {
    const before = memory.report().current.weights;
    const models = (["large", "always"] as const).map((which) => {
      const at = memory.report().current.weights;
      const model = open(which);
      return { model, bytes: memory.report().current.weights - at };
    });
    const [plain, screened] = models;
    assert.ok((screened?.bytes ?? 0) > (plain?.bytes ?? 0), "the quickstart's head is not a large one");
    for (const { model } of models) model.free();
    assert.equal(memory.report().current.weights, before);
  });
});
