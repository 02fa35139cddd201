// Memory of the CUDA device as the engine sees it: running out of it is an error with the report, loses nothing, and the
// process goes on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { cuda, memory, Tensor } from "#native";
import { freeBatch, packExamples, uploadBatch } from "../../packages/engine/batch.ts";
import { lossAndGradients } from "../../packages/engine/forward.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import { goldenIds, plainPass } from "../support/golden-logits.ts";
import { examplesOf, loadGoldenModel } from "../support/golden-model.ts";

const device = "cuda";
const at = { device, kind: "activations" } as const;
const inUse = () => Object.values(memory.report(device).current).reduce((sum, bytes) => sum + bytes, 0);

test("there is a device, and it says what it is", () => {
  const facts = cuda.device();
  assert.ok(facts, cuda.unavailable());
  assert.ok(facts.totalBytes > 0 && facts.freeBytes <= facts.totalBytes, JSON.stringify(facts));
});

test("more than the device has is refused with what is in use by kind; the next allocation works", () => {
  const total = cuda.device()?.totalBytes ?? 0;
  const kept = Tensor.empty("uint8", [1 << 20], { device, kind: "weights" });
  assert.throws(() => Tensor.empty("uint8", [2 * total], at), {
    code: "RESOURCE_EXHAUSTED",
    message: /the device refused \d+ bytes \(activations\), in use \d+; weights \d+/,
  });
  const next = Tensor.empty("uint8", [1 << 20], at).zero();
  assert.deepEqual(next.read(0, 8), new Uint8Array(8));
  next.free();
  kept.free();
});

test("a step that does not fit under an allocation cap fails with the report; without the cap it gives the same loss", () => {
  const model = loadGoldenModel("llama_untied_nf4_dq", device);
  const batch = uploadBatch(packExamples(examplesOf(goldenIds, goldenIds)), device);
  const step = () => lossAndGradients(model, batch, plainPass(device, "float32"), null).lossSum;
  const before = step();
  const loaded = inUse();
  memory.trim(device);
  memory.setLimit(loaded + 10_000, device);
  try {
    assert.throws(step, { code: "RESOURCE_EXHAUSTED", message: /memory limit: \d+ bytes, in use \d+.*weights \d+/ });
  } finally {
    memory.setLimit(0, device);
  }
  assert.equal(inUse(), loaded, "nothing of the step stays");
  assert.equal(step(), before);
  freeBatch(batch);
  freeModel(model);
});
