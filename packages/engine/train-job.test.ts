// Jobs from files to files on a tiny model: what they write, that they repeat, and what they refuse.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { memory } from "#native";
import { parseRecipe } from "#packages/data";
import { openAdapterFolder, openModelFolder } from "#packages/hub";
import { goldenPath } from "../../test/support/golden-model.ts";
import { runTrainJob } from "./train-job.ts";
import type { TrainEvent } from "./train-run.ts";

const folder = mkdtempSync(join(tmpdir(), "nibble-train-"));
after(() => rmSync(folder, { recursive: true }));

const data = join(folder, "rows.jsonl");
const row = (i: number) => JSON.stringify({ prompt: `The quick number ${i}`, completion: ` is ${i * 7} and sings` });
writeFileSync(data, Array.from({ length: 12 }, (_, i) => row(i)).join("\n"));

let runs = 0;

async function train(
  flags: Record<string, unknown>,
  options: { signal?: AbortSignal; onEvent?: (e: TrainEvent) => void } = {},
) {
  const out = join(folder, `out-${runs++}`);
  const all = { model: goldenPath("llama_untied"), data, out, rank: 4, steps: 6, batchSize: 4, lr: 5e-3, ...flags };
  const recipe = parseRecipe({ flags: all });
  const job = { recipe, evalFile: recipe.evalFraction > 0 ? null : data, evalSteps: 0, device: "cpu" } as const;
  const signal = options.signal ?? new AbortController().signal;
  return runTrainJob(job, { signal, onEvent: options.onEvent ?? (() => {}) });
}

const weights = (out: string) => readFileSync(join(out, "adapter_model.safetensors"));

describe("a job", () => {
  test("keeps block inputs on the host of a card only", async () => {
    await assert.rejects(train({ gradientCheckpointing: "offload" }), {
      code: "INVALID_ARGUMENT",
      message: /gradient_checkpointing: expected none, selective or full on the cpu, got offload/,
    });
  });

  test("writes a PEFT folder pinned to its base, and a row of metrics a step", async () => {
    const steps: number[] = [];
    const report = await train({}, { onEvent: (e) => e.kind === "step" && steps.push(e.step) });
    assert.deepEqual(steps, [1, 2, 3, 4, 5, 6]);
    const lines = readFileSync(join(report.outDir, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((l) => JSON.parse(l));
    assert.deepEqual(Object.keys(lines[0]), ["step", "loss", "grad_norm", "lr", "tokens", "seconds"]);
    assert.equal(lines.at(-1).loss, report.lastLoss);
    assert.ok(report.lastLoss < report.firstLoss);
    assert.ok(report.evalLoss !== null && report.evalLoss < report.firstLoss);
    using base = openModelFolder(goldenPath("llama_untied"));
    using adapter = openAdapterFolder(report.outDir, { config: base.config, digest: report.baseDigest });
    assert.equal(adapter.modules.size, 14);
  });

  test("checkpoints are adapters of the steps they were written after, and change nothing of the result", async () => {
    const saved: (TrainEvent & { kind: "checkpoint" })[] = [];
    const flags = { dropout: 0.1, batchSize: 4, gradAccum: 1, steps: 6 };
    const plain = await train(flags);
    // 3 steps an epoch: half of it is not whole steps. After the last step comes the result.
    const report = await train(
      { ...flags, saveEpochs: 0.5 },
      { onEvent: (e) => e.kind === "checkpoint" && saved.push(e) },
    );
    assert.deepEqual(
      saved.map(({ step }) => step),
      [2, 3, 5],
    );
    assert.deepEqual(weights(report.outDir), weights(plain.outDir));
    const [, third] = saved;
    assert.equal(third?.dir, join(report.outDir, "checkpoint-3"));
    const upToThere = await train({ ...flags, steps: 3 });
    assert.deepEqual(weights(third.dir), weights(upToThere.outDir));
    assert.deepEqual([third.loss, third.evalLoss], [upToThere.lastLoss, upToThere.evalLoss]);
  });

  test("measures held-out rows before the first step and after the last", async () => {
    const evals: { step: number; loss: number }[] = [];
    const report = await train({}, { onEvent: (e) => e.kind === "eval" && evals.push(e) });
    assert.deepEqual(
      evals.map((e) => e.step),
      [0, 6],
    );
    assert.ok(evals[1]!.loss < evals[0]!.loss);
    assert.equal(report.evalLoss, evals[1]!.loss);
  });

  test("packed rows do not see each other: the same losses as unpacked, by a plan that is written down", async () => {
    const losses = (out: string) =>
      readFileSync(join(out, "metrics.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line).loss as number);
    const facts = (out: string) => JSON.parse(readFileSync(join(out, "data.json"), "utf8"));
    // A step takes all rows in both.
    const flags = { dtype: "float32", steps: 3, batchSize: 12, gradAccum: 1, shuffle: false, maxLength: 60 };
    const plain = await train(flags);
    const texts: string[] = [];
    const onEvent = (e: TrainEvent) => e.kind === "log" && texts.push(e.text);
    const packed = await train({ ...flags, packing: true }, { onEvent });
    for (const [i, loss] of losses(packed.outDir).entries()) {
      assert.ok(Math.abs(loss - losses(plain.outDir)[i]!) < 1e-4, `${losses(packed.outDir)} ${losses(plain.outDir)}`);
    }
    const { packing } = facts(packed.outDir);
    assert.ok(packing.sequences < 12 && packing.capacity === 60);
    assert.ok(texts.some((text) => text.includes(packing.digest)));
    assert.equal(facts(plain.outDir).packing, null);
    const again = await train({ ...flags, packing: true, steps: 1 });
    assert.equal(facts(again.outDir).packing.digest, packing.digest);
  });

  test("a row of weight 2 is a row that is there twice; only the weights' proportions count", async () => {
    const write = (name: string, weighted: (i: number) => object[]) => {
      const file = join(folder, name);
      const lines = Array.from({ length: 12 }, (_, i) => weighted(i)).flat();
      writeFileSync(file, lines.map((line) => JSON.stringify(line)).join("\n"));
      return file;
    };
    const at = (i: number) => JSON.parse(row(i)) as object;
    const twice = write("twice.jsonl", (i) => (i % 3 === 0 ? [at(i), at(i)] : [at(i)]));
    const weights = write("weights.jsonl", (i) => [{ ...at(i), weight: i % 3 === 0 ? 1 : 0.5 }]);
    const flags = { dtype: "float32", steps: 2, batchSize: 16, gradAccum: 1, shuffle: false };
    const metrics = (out: string) =>
      readFileSync(join(out, "metrics.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as { loss: number; grad_norm: number });
    const expected = metrics((await train({ ...flags, data: twice })).outDir);
    const got = metrics((await train({ ...flags, data: weights })).outDir);
    const plain = metrics((await train(flags)).outDir);
    for (const [i, step] of expected.entries()) {
      assert.ok(Math.abs(got[i]!.loss - step.loss) < 1e-4, `${got[i]!.loss} ${step.loss}`);
      assert.ok(Math.abs(got[i]!.grad_norm / step.grad_norm - 1) < 1e-3);
    }
    assert.ok(Math.abs(plain[0]!.loss - expected[0]!.loss) > 1e-3);
  });

  test("holds out a part of the rows, and refuses to do it twice", async () => {
    const texts: string[] = [];
    const onEvent = (e: TrainEvent) => e.kind === "log" && texts.push(e.text);
    const report = await train({ evalFraction: 0.25, steps: 1 }, { onEvent });
    assert.ok(report.evalLoss !== null);
    assert.ok(texts.includes("3 rows are held out"), texts.join("\n"));
    const { rowsTrained, rowsEvaluated } = JSON.parse(readFileSync(join(report.outDir, "data.json"), "utf8"));
    assert.deepEqual([rowsTrained, rowsEvaluated], [9, 3]);
    const recipe = parseRecipe({ flags: { model: goldenPath("llama_untied"), data, out: folder, evalFraction: 0.25 } });
    const job = { recipe, evalFile: data, evalSteps: 0, device: "cpu" } as const;
    await assert.rejects(runTrainJob(job, { signal: new AbortController().signal, onEvent: () => {} }), {
      code: "INVALID_ARGUMENT",
      message: /eval_fraction: expected 0 with evaluation data of its own, got both/,
    });
  });

  test("repeats bit for bit, whatever the threads, with dropout and checkpointing or without", async () => {
    const flags = { dropout: 0.2, gradientCheckpointing: "none" };
    const first = await train({ ...flags, threads: 1 });
    const second = await train({ ...flags, threads: 3 });
    const checkpointed = await train({ ...flags, gradientCheckpointing: "full" });
    assert.deepEqual(weights(second.outDir), weights(first.outDir));
    assert.deepEqual(weights(checkpointed.outDir), weights(first.outDir));
    const other = await train({ ...flags, seed: 43 });
    assert.notDeepEqual(weights(other.outDir), weights(first.outDir));
  });

  test("splitting a batch into micro-batches changes nothing but rounding", async () => {
    const whole = await train({ batchSize: 4, gradAccum: 1, shuffle: false });
    const split = await train({ batchSize: 1, gradAccum: 4, shuffle: false });
    assert.ok(Math.abs(whole.lastLoss - split.lastLoss) < 1e-4 * whole.lastLoss);
  });

  test("learns in bfloat16 as in float32, nearly", async () => {
    const [wide, narrow] = [await train({ dtype: "float32" }), await train({ dtype: "bfloat16" })];
    assert.ok(
      Math.abs(wide.lastLoss - narrow.lastLoss) < 0.03 * wide.lastLoss,
      `${wide.lastLoss} and ${narrow.lastLoss}`,
    );
    assert.notEqual(wide.lastLoss, narrow.lastLoss);
  });

  test("goes on from an adapter", async () => {
    const first = await train({ steps: 12 });
    const second = await train({ initAdapter: first.outDir, steps: 2 });
    assert.ok(second.firstLoss < first.firstLoss);
  });

  test("trains all parameters of a 16-bit model into a folder that opens", async () => {
    const report = await train({ full: true, bits: 16, lr: 1e-3, out: join(folder, "full") });
    assert.ok(report.lastLoss < report.firstLoss);
    using model = openModelFolder(report.outDir);
    assert.equal(model.info("model.norm.weight").dtype, "bfloat16");
  });
});

describe("memory", () => {
  // Beside the addon: a temporary folder of the system may be memory, which is no place to page to.
  const pagingDir = mkdtempSync(new URL("../../build/paging-", import.meta.url).pathname);
  after(() => rmSync(pagingDir, { recursive: true }));
  const paged = { optimizer: "paged_adamw_32bit", pagingDir, rank: 64 };

  for (const [name, flags] of Object.entries({
    "an adapter": {},
    "a higher rank, paged": paged,
    "bfloat16, recomputed": { dtype: "bfloat16", gradientCheckpointing: "full" },
    "all parameters in 8 bits": { full: true, bits: 16, optimizer: "adamw_8bit" },
    "a quantized folder": { model: goldenPath("llama_untied_nf4_dq") },
  })) {
    test(`of ${name} is within 5 % of what was expected`, async () => {
      const { memory: taken, estimate } = await train(flags);
      const off = taken.peakTotal / estimate.peakTotal - 1;
      assert.ok(Math.abs(off) < 0.05, `${(100 * off).toFixed(1)} %: ${JSON.stringify({ taken, estimate })}`);
      assert.equal(taken.pagedPeak, estimate.paged);
    });
  }

  test("paged state gives the adapter of unpaged state", async () => {
    const whole = await train({ ...paged, optimizer: "adamw_32bit" });
    const inFile = await train(paged);
    assert.deepEqual(weights(inFile.outDir), weights(whole.outDir));
    assert.ok(inFile.memory.peakTotal < whole.memory.peakTotal);
  });

  test("a refused run leaves none of the folders that it made", { skip: !existsSync("/dev/shm") }, async () => {
    const root = mkdtempSync("/dev/shm/nibble-train-");
    after(() => rmSync(root, { recursive: true }));
    const [out, pagingDir] = [join(root, "runs/out"), join(root, "paging")];
    await assert.rejects(train({ ...paged, out, pagingDir: null }), /expected a folder on a disk, got one in memory/);
    assert.deepEqual(readdirSync(root), []);
    mkdirSync(pagingDir);
    await assert.rejects(train({ ...paged, out, pagingDir }), /expected a folder on a disk/);
    assert.deepEqual(readdirSync(root), ["paging"]);
  });

  test("a run that cannot fit is refused before it writes anything, with the numbers and what would help", async () => {
    const out = join(folder, "too-large");
    const started = train({ out, memoryLimit: process.memoryUsage.rss() + 1_000_000 });
    await assert.rejects(started, (error: { code: string; message: string; details: Record<string, string> }) => {
      assert.equal(error.code, "RESOURCE_EXHAUSTED");
      assert.match(error.message, /needs .* \(weights .*optimizer .*\).*memory_limit leaves .*; what would help: /);
      assert.match(error.message, /gradient_checkpointing full \(then [\d.]+ [KM]B\)/);
      assert.equal(error.details["limited_by"], "memory_limit");
      assert.ok(Number(error.details["bytes_needed"]) > Number(error.details["bytes_available"]));
      return true;
    });
    assert.ok(!existsSync(out));
  });
});

describe("what a job refuses", () => {
  const refuses = (name: string, flags: Record<string, unknown>, pattern: RegExp) =>
    test(name, () => assert.rejects(train(flags), pattern));
  const rows = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  refuses("an empty data set", { data: rows("empty.jsonl", "") }, /empty/);
  refuses(
    "unknown keys, with file and line",
    { data: rows("keys.jsonl", `${row(1)}\n{"question": 1}`) },
    /keys\.jsonl:2/,
  );
  refuses(
    "nothing to train on",
    { data: rows("none.jsonl", '{"input_ids":[5,6],"labels":[-100,-100]}') },
    /none\.jsonl:1/,
  );
  refuses("a target that no layer has", { targets: ["q_porj"] }, /q_porj/);
  refuses(
    "an adapter of another base",
    { initAdapter: goldenPath("train/init_adapter"), model: goldenPath("llama_untied_i192") },
    /expected/,
  );

  test("cancelling ends the job at the next micro-batch and writes no adapter", async () => {
    const controller = new AbortController();
    const out = join(folder, "cancelled");
    const cancelled = train(
      { out, steps: 1000, gradAccum: 3, saveEpochs: 1 },
      { signal: controller.signal, onEvent: (e) => e.kind === "step" && e.step === 2 && controller.abort() },
    );
    await assert.rejects(cancelled, { code: "CANCELLED" });
    assert.ok(!existsSync(join(out, "adapter_model.safetensors")));
    // What was saved by then stays.
    assert.ok(existsSync(join(out, "checkpoint-1/adapter_model.safetensors")));
    assert.equal(readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n").length, 2);
  });

  test("after all of these no native memory is left", () => {
    const { current } = memory.report();
    assert.equal(
      Object.values(current).reduce((a, b) => a + b, 0),
      current.workspace,
    );
  });
});
