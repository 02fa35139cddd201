// Adapters in bfloat16: PEFT's run within bfloat16's rounding, the same bits whatever is made again, small updates that add
// up, half the bytes, and a folder that is read back as it was.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { memory, Tensor } from "#native";
import { openAdapterFolder } from "#packages/hub";
import { goldenRuns, goldenStart, goldenStep, snapshotOf, trainGolden } from "../../test/support/golden-train.ts";
import { freeBatch, packExamples, uploadBatch } from "./batch.ts";
import { floatsOf } from "./dense.ts";
import { lossAndGradients } from "./forward.ts";
import { adapterParameters, freeAdapter, loadAdapter, saveAdapter } from "./lora.ts";
import { freeModel } from "./model-load.ts";
import { Adamw } from "./optimizer.ts";

const [, golden] = goldenRuns[0];
const plain = { device: "cpu", dtype: "float32", optimizer: "adamw_32bit", gradientCheckpointing: "full" } as const;
const changes = [
  { gradientCheckpointing: "none" },
  { gradientCheckpointing: "selective" },
  { optimizer: "paged_adamw_32bit" },
] as const;
const train = (change: object, split: boolean) =>
  trainGolden(golden.base, { ...plain, ...change, adapterDtype: "bfloat16", split });

describe("adapters in bfloat16", () => {
  test("20 losses of PEFT's run within a percent; the same bits with any checkpointing and with paged state", async () => {
    const first = await train({}, false);
    golden.loss.forEach((want, i) => {
      const off = Math.abs((first.losses[i] ?? Number.NaN) - want) / want;
      assert.ok(off < 0.01, `loss ${i}: off by ${off}`);
    });
    for (const change of changes) {
      const run = await train(change, false);
      assert.deepEqual(run.losses, first.losses, JSON.stringify(change));
      assert.deepEqual(snapshotOf(run.adapter), snapshotOf(first.adapter));
      run.free();
    }
    const split = await train({ optimizer: "paged_adamw_8bit" }, true);
    assert.ok(Math.abs((split.losses[19] ?? Number.NaN) / (golden.loss[19] ?? 0) - 1) < 0.02);
    for (const run of [first, split]) run.free();
  });

  test("matrices and gradients take half the bytes", () => {
    const bytes = (dtype: "float32" | "bfloat16") => {
      const before = memory.report().current;
      const { model, adapter } = goldenStart(golden.base, "cpu", dtype);
      const now = memory.report().current;
      freeAdapter(adapter);
      freeModel(model);
      return [now.adapter - before.adapter, now.gradients - before.gradients];
    };
    const [narrow, wide] = [bytes("bfloat16"), bytes("float32")];
    narrow.forEach((n, i) => void assert.ok(n < 0.55 * (wide[i] ?? 0), `${n} of ${wide[i]}`));
  });

  test("updates that bfloat16 would lose add up", () => {
    const one = () => new Uint8Array(new Uint16Array(64).fill(0x3f80).buffer);
    const value = Tensor.fromBytes(one(), "bfloat16", [64], { device: "cpu", kind: "adapter" });
    const grad = Tensor.empty("bfloat16", [64], { device: "cpu", kind: "gradients" });
    const hyper = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 0 };
    const optimizer = new Adamw([{ name: "w", value, grad }], { ...hyper, optimizer: "adamw_32bit", pagingDir: "." });
    for (let i = 0; i < 40; i++) {
      grad.write(one());
      optimizer.update(1e-3); // AdamW moves a value by lr: a quarter of what bfloat16 tells from 1
    }
    const got = floatsOf(value)[0] ?? Number.NaN;
    assert.ok(Math.abs(got - 0.96) < 4e-3, `${got}`);
    optimizer.free();
    for (const t of [value, grad]) t.free();
  });

  test("a saved one is read back as it was", () => {
    const { model, adapter } = goldenStart(golden.base, "cpu", "bfloat16");
    const folderOf = mkdtempSync(join(tmpdir(), "nibble-wide-"));
    const path = join(folderOf, "adapter");
    const card = { title: "An adapter", summary: "Of a test.", figures: [] };
    saveAdapter(path, adapter, { base: model.config, baseDigest: null, card });
    using folder = openAdapterFolder(path, { config: model.config });
    const again = loadAdapter(folder, "cpu", true, "bfloat16");
    assert.deepEqual(snapshotOf(again), snapshotOf(adapter));
    for (const one of [adapter, again]) freeAdapter(one);
    freeModel(model);
    rmSync(folderOf, { recursive: true });
  });

  test("a pass that fails in the middle leaves adapters that train on", () => {
    const { model, adapter } = goldenStart(golden.base, "cpu", "bfloat16");
    const batch = uploadBatch(packExamples(goldenStep(0)), "cpu");
    const pass = { device: "cpu", dtype: "float32", gradientCheckpointing: "full", dropoutSeed: null } as const;
    const run = () => {
      for (const p of adapterParameters(adapter)) p.grad.zero();
      const { lossSum } = lossAndGradients(model, batch, pass, 1e-2);
      return [lossSum, ...adapterParameters(adapter).map((p) => floatsOf(p.grad).join())];
    };
    const want = run();
    const inUse = Object.values(memory.report().current).reduce((sum, bytes) => sum + bytes, 0);
    memory.setLimit(inUse + 60_000);
    assert.throws(run, { code: "RESOURCE_EXHAUSTED" });
    memory.setLimit(0);
    const left = Object.values(memory.report().current).reduce((sum, bytes) => sum + bytes, 0);
    assert.equal(left, inUse, "nothing of the pass stays");
    assert.deepEqual(run(), want);
    freeBatch(batch);
    freeAdapter(adapter);
    freeModel(model);
  });
});
