// One base, several adapters, requests that come and go: batched answers equal those given alone.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { memory, normalFill } from "#native";
import { type AdapterProbe, openAdapterFolder, openModelFolder, readModelConfig } from "#packages/hub";
import { goldenPath } from "../../test/support/golden-model.ts";
import { servedAdapterBytes } from "./generation/served-adapter.ts";
import { createAdapter, freeAdapter, saveAdapter } from "./lora.ts";
import { type GenerateInput, ServedModel } from "./served-model.ts";

const folder = mkdtempSync(join(tmpdir(), "nibble-served-"));
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
const limits = { sequencesMax: 8, stepTokensMax: 32, cacheTokensMax: 512, waitingMax: 16 };
const options = {
  modelDir: goldenPath("llama_untied_nf4_dq"),
  device: "cpu",
  dtype: "float32",
  quant: null,
  ...limits,
} as const;

/** An adapter with random B, so that it changes every answer. */
function writeAdapter(
  name: string,
  seed: number,
  targetModules: "all-linear" | readonly string[],
  probes: readonly AdapterProbe[] = [],
): string {
  using base = openModelFolder(options.modelDir);
  const shape = { rank: 2 + seed, alpha: 8, dropout: 0, useRslora: false, rankPattern: {}, alphaPattern: {} };
  const adapter = createAdapter({ ...shape, targetModules, baseModelNameOrPath: "" }, base.config, "cpu", seed);
  let stream = 0;
  for (const { b } of adapter.layers.values()) normalFill(b, { mean: 0, std: 0.3, seed, stream: stream++ });
  const path = join(folder, name);
  saveAdapter(path, adapter, {
    base: base.config,
    baseDigest: null,
    probes,
    card: { title: name, summary: "", figures: [] },
  });
  freeAdapter(adapter);
  return path;
}

const never = new AbortController().signal;

function input(inputIds: number[], adapterId: string | null, maxNewTokens = 10): GenerateInput {
  return { inputIds, maxNewTokens, sampling: greedy, adapterId, ignoreEos: true, wantLogits: false };
}

describe("a served model", () => {
  let model: ServedModel;

  before(async () => {
    model = ServedModel.open(options);
    await model.loadAdapter("one", writeAdapter("one", 1, "all-linear"));
    await model.loadAdapter("two", writeAdapter("two", 2, ["q_proj", "down_proj"]));
  });
  after(() => {
    model.free();
    rmSync(folder, { recursive: true });
    assert.equal(memory.report().current.weights + memory.report().current.adapter, 0);
  });

  async function answer(request: GenerateInput, signal = new AbortController().signal): Promise<number[]> {
    const ids: number[] = [];
    await model.generate(request, (token) => ids.push(token.id), signal);
    return ids;
  }

  test("what an adapter takes is known before it is loaded, whatever it brings and in which dtype", async () => {
    const pairs = [
      ["dora", "llama_untied"],
      ["resized", "llama_untied"],
      ["mod_tied", "llama_tied"],
      ["tokens_tied", "llama_tied"],
    ] as const;
    for (const dtype of ["float32", "bfloat16"] as const) {
      for (const [name, base] of pairs) {
        const modelDir = goldenPath(base);
        const served = ServedModel.open({ ...options, modelDir, dtype });
        const { bytes } = await served.loadAdapter(name, goldenPath(`peft/${name}`));
        using adapter = openAdapterFolder(goldenPath(`peft/${name}`));
        assert.equal(servedAdapterBytes(adapter, readModelConfig(modelDir).config, dtype), bytes, `${name} ${dtype}`);
        served.free();
      }
    }
  });

  test("answers of a mixed batch are those given alone", async () => {
    const requests = [0, 1, 2, 3, 4, 5, 6].map((i) =>
      input(
        Array.from({ length: 3 + 5 * i }, (_, j) => 3 + ((i * 31 + j * 7) % 500)),
        [null, "one", "two"][i % 3] ?? null,
        6 + i,
      ),
    );
    const alone: number[][] = [];
    for (const request of requests) alone.push(await answer(request));
    assert.deepEqual(await Promise.all(requests.map((r) => answer(r))), alone);
    const base = await answer(input([5, 6, 7], null));
    assert.notDeepEqual(await answer(input([5, 6, 7], "one")), base);
    assert.notDeepEqual(await answer(input([5, 6, 7], "two")), base);
  });

  test("over bfloat16 activations adapters take half the bytes, and a batch answers as each alone", async () => {
    const half = ServedModel.open({ ...options, dtype: "bfloat16" });
    const bytesOf = (served: ServedModel, id: string) => served.listAdapters().find((a) => a.id === id)?.bytes ?? 0;
    try {
      for (const id of ["one", "two"]) {
        await half.loadAdapter(id, join(folder, id));
        assert.equal(2 * bytesOf(half, id), bytesOf(model, id));
      }
      const answers = (ids: (string | null)[]) =>
        Promise.all(
          ids.map(async (id, i) => {
            const drawn: number[] = [];
            await half.generate(input([3 + i, 40, 5], id), ({ id: token }) => drawn.push(token), never);
            return drawn;
          }),
        );
      const asked = [null, "one", "two", "one", null, "two"];
      const together = await answers(asked);
      for (const [i, id] of asked.entries()) {
        const padding = new Array<null>(i).fill(null);
        assert.deepEqual((await answers([...padding, id])).at(-1), together[i]);
      }
    } finally {
      half.free();
    }
  });

  test("a cancelled request ends early and its place is free again", async () => {
    const controller = new AbortController();
    const ids: number[] = [];
    const onToken = (token: { id: number }) => {
      ids.push(token.id);
      if (ids.length === 3) controller.abort();
    };
    const { reason } = await model.generate(input([9, 9], null, 200), onToken, controller.signal);
    assert.deepEqual([reason, ids.length], ["cancelled", 3]);
    const { running, waiting, pagesUsed } = model.stats;
    assert.deepEqual([running, waiting, pagesUsed], [0, 0, 0]);
    // The cache holds 512 tokens: this needs the pages of the cancelled one.
    assert.equal((await answer(input([9, 9], null, 240))).length, 240);
  });

  test("an adapter is loaded between the steps of the others, and one that answers otherwise than at its training is refused", async () => {
    const ids = [3, 1, 4, 1, 5];
    const asked = { ...input(ids, "one", 1), topLogprobs: 4 };
    let top: AdapterProbe["top"] = [];
    const onToken = (token: { top: readonly { id: number; logprob: number }[] }) => {
      top = token.top.map(({ id, logprob }) => [id, logprob] as const);
    };
    await model.generate(asked, onToken, new AbortController().signal);
    assert.equal(top.length, 4);
    let steps = 0;
    const running = model.generate(input([7, 7], null, 250), () => steps++, new AbortController().signal);
    await new Promise((resolve) => setImmediate(resolve));
    const before = memory.report().current.adapter;
    const wide = writeAdapter("wide", 1022, "all-linear");
    const stepsBefore = steps;
    await model.loadAdapter("wide", wide);
    assert.ok(steps > stepsBefore + 2, `${steps - stepsBefore} steps meanwhile`);
    await model.unloadAdapter("wide");
    const said = [{ ids, top }];
    await model.loadAdapter("same", writeAdapter("same", 1, "all-linear", said));
    const other = model.loadAdapter("other", writeAdapter("other", 3, "all-linear", said));
    await assert.rejects(other, { code: "FAILED_PRECONDITION", message: /log-probabilities within 0\.05/ });
    await running;
    await assert.rejects(answer(input([1], "other")), { code: "NOT_FOUND" });
    const { bytesFreed } = await model.unloadAdapter("same");
    assert.ok(bytesFreed > 0);
    assert.equal(memory.report().current.adapter, before);
  });

  test("what it refuses", async () => {
    const refuses = (request: GenerateInput, expected: object) => assert.rejects(answer(request), expected);
    await refuses(input([], null), { code: "INVALID_ARGUMENT" });
    await refuses(input([512], null), { code: "INVALID_ARGUMENT", message: /0\.\.511, got 512/ });
    await refuses(input([1], null, 256), { code: "INVALID_ARGUMENT", message: /at most 256/ });
    await refuses(input([1], "three"), { code: "NOT_FOUND", message: /three.*one, two/ });
    await assert.rejects(model.loadAdapter("one", join(folder, "one")), { code: "ALREADY_EXISTS" });
    await assert.rejects(model.loadAdapter("gone", join(folder, "gone")), { code: "NOT_FOUND" });
  });

  test("unloading waits for requests under way and gives the memory back", async () => {
    const bytes = model.listAdapters().find((a) => a.id === "one")?.bytes;
    const running = answer(input([5, 6, 7], "one", 40));
    const unloading = model.unloadAdapter("one");
    await refusesNow();
    assert.equal((await running).length, 40);
    assert.equal((await unloading).bytesFreed, bytes);
    assert.deepEqual(
      model.listAdapters().map((a) => a.id),
      ["two"],
    );
  });

  async function refusesNow(): Promise<void> {
    await assert.rejects(answer(input([1], "one")), { code: "NOT_FOUND" });
  }

  test("sampling with a seed repeats, and another seed differs", async () => {
    const drawn = (seed: number) =>
      answer({ ...input([5, 6, 7], null, 24), sampling: { ...greedy, temperature: 1.5, seed } });
    assert.deepEqual(await drawn(1), await drawn(1));
    assert.notDeepEqual(await drawn(1), await drawn(2));
  });
});
