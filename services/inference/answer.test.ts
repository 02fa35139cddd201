// One answer without a transport: what a reader who does not read costs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultQuant } from "#packages/engine";
import { longModel } from "../../test/support/models.ts";
import { until } from "../../test/support/services.ts";
import { answer } from "./answer.ts";
import { LoadedModel } from "./model.ts";

const unreadMax = 50;
const asked = {
  adapterId: null,
  prompt: { ids: [5, 6, 7] },
  sampling: { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 },
  frequencyPenalty: 0,
  presencePenalty: 0,
  stops: [],
  ignoreEos: true,
  wantLogits: false,
  wantLogprobs: false,
  topLogprobs: 0,
  lookupTokens: 0,
  constraint: null,
  caller: "",
};

test("tokens wait for a slow reader up to a limit; then the answer ends, and its place is free", async (t) => {
  const limits = { sequencesMax: 1, stepTokensMax: 64, cacheTokensMax: 20_000, waitingMax: 4, unreadMax };
  const place = { dtype: "float32", threads: 1, device: "cpu" } as const;
  const settings = { id: "base", modelDir: longModel(t, 20_000), bits: undefined, quant: defaultQuant, ...place };
  const model = await LoadedModel.open(settings, { ...limits, prefixCache: false }, { now: Date.now });
  t.after(() => model.close());
  const never = new AbortController().signal;

  const stalled = answer(model, { ...asked, maxNewTokens: 10_000 }, never);
  await stalled.next();
  await until(async () => (await model.engineModel.stats()).running === 0);
  let waited = 0;
  const rest = (async () => {
    for await (const _ of stalled) waited++;
  })();
  await assert.rejects(rest, {
    code: "RESOURCE_EXHAUSTED",
    message: /at most 50 tokens behind/,
    details: { quota: "tokens that wait for their reader", limit: "50" },
  });
  assert.ok(waited >= unreadMax && waited <= unreadMax + 1, `${waited}`);

  // One who reads as they come gets all of them, however many.
  let read = 0;
  for await (const event of answer(model, { ...asked, maxNewTokens: 300 }, never)) if (event.kind === "token") read++;
  assert.equal(read, 300);
  assert.equal((await model.engineModel.stats()).pagesUsed, 0);
});
