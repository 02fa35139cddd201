// Folders that Nibble writes, read by transformers, bitsandbytes and PEFT: the same greedy tokens. Runs
// where a Python with them is found (NIBBLE_PYTHON, else python3); elsewhere it says that it was skipped.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { parseRecipe } from "#packages/data";
import { defaultQuant, Engine, type EngineModel } from "#packages/engine";
import { goldenPath } from "../support/golden-model.ts";
import { python, skipWithout } from "../support/python.ts";

const script = fileURLToPath(new URL("greedy.py", import.meta.url));
const skip = skipWithout("torch", "transformers", "peft", "bitsandbytes");

const prompt = [5, 77, 130, 9, 300, 41];
const count = 12;

interface Answer {
  token_ids: number[];
  logits: number[];
  missing: string[];
  kind: string;
}

function ask(model: string, adapter: string | null): Answer {
  const args = [script, model, adapter ?? "-", prompt.join(","), String(count)];
  const ran = spawnSync(python, args, { encoding: "utf8" });
  assert.equal(ran.status, 0, ran.stderr);
  return JSON.parse(ran.stdout.trim().split("\n").at(-1) ?? "");
}

async function ours(model: EngineModel, adapterId: string | null): Promise<{ ids: number[]; logits: Float32Array }> {
  const ids: number[] = [];
  let logits: Float32Array | null = null;
  const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
  await model.generate(
    { inputIds: prompt, maxNewTokens: count, sampling, adapterId, ignoreEos: true, wantLogits: true },
    {
      onEvent: (token) => {
        ids.push(token.id);
        logits ??= token.logits;
      },
    },
  );
  return { ids, logits: logits ?? assert.fail("no logits came") };
}

describe("transformers and PEFT read what Nibble writes", { skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), "nibble-interop-"));
  const quantized = join(folder, "quantized");
  const adapter = join(folder, "adapter");
  const engine = new Engine();
  let model: EngineModel;

  before(async () => {
    await engine.quantize({ modelDir: goldenPath("llama_untied_i192"), outDir: quantized, quant: defaultQuant });
    const rows = Array.from({ length: 8 }, (_, i) => {
      const ids = Array.from({ length: 24 }, (_, j) => 3 + ((i * 37 + j * 11) % 500));
      return JSON.stringify({ input_ids: ids, labels: ids });
    });
    const data = join(folder, "rows.jsonl");
    writeFileSync(data, rows.join("\n"));
    const flags = { model: quantized, data, out: adapter, rank: 4, alpha: 8, lr: 0.01, steps: 12, batchSize: 4 };
    await engine.train({ recipe: parseRecipe({ flags }), evalFile: null, evalSteps: 0, device: "cpu" });
    const limits = { sequencesMax: 2, stepTokensMax: 64, cacheTokensMax: 128, waitingMax: 2 };
    model = await engine.openModel({ modelDir: quantized, device: "cpu", dtype: "float32", quant: null, ...limits });
    await model.loadAdapter("trained", adapter);
  });

  after(async () => {
    await engine.close();
    rmSync(folder, { recursive: true });
  });

  for (const [name, adapterDir, adapterId] of [
    ["the quantized base", null, null],
    ["the adapter on it", adapter, "trained"],
  ] as const) {
    test(name, async () => {
      const theirs = ask(quantized, adapterDir);
      const { ids, logits } = await ours(model, adapterId);
      assert.deepEqual(theirs.missing, []);
      const worst = theirs.logits.reduce((m, x, i) => Math.max(m, Math.abs(x - (logits[i] ?? Number.NaN))), 0);
      assert.ok(worst < 1e-3, `logits differ by ${worst}`);
      assert.deepEqual(ids, theirs.token_ids);
    });
  }

  for (const requantize of [null, defaultQuant]) {
    test(`the two merged, in ${requantize ? "4" : "16"} bits`, async () => {
      const merged = join(folder, `merged-${requantize ? 4 : 16}`);
      const job = { modelDir: quantized, adapterDir: adapter, outDir: merged, quant: null, into: "trained" } as const;
      const { drift } = await engine.merge({ ...job, requantize, dtype: null });
      const theirs = ask(merged, null);
      const { ids, logits } = await ours(model, "trained");
      assert.deepEqual(theirs.missing, []);
      const worst = theirs.logits.reduce((m, x, i) => Math.max(m, Math.abs(x - (logits[i] ?? Number.NaN))), 0);
      // Quantized again it is another model, as far away as the report said.
      assert.ok(
        requantize ? worst > 1e-2 && worst < 4 * drift.maxDifference : worst < 1e-3,
        `logits differ by ${worst}`,
      );
      if (!requantize) assert.deepEqual(ids, theirs.token_ids);
    });
  }

  test("the adapter does something", async () => {
    assert.notDeepEqual((await ours(model, null)).logits, (await ours(model, "trained")).logits);
  });
});
