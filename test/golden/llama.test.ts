// Logits, losses and greedy tokens of transformers (with bitsandbytes for the 4-bit folders), in float32.
// Tolerances are those of the golden files' makers: logits 2e-4, loss 1e-5.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { freeBatch, packExamples, uploadBatch } from "../../packages/engine/batch.ts";
import { allLogits } from "../../packages/engine/forward.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import { goldenIds as ids, goldenModels, greedyOf, logitsOf, plainPass } from "../support/golden-logits.ts";
import { examplesOf, loadGoldenModel, maxDifference } from "../support/golden-model.ts";

for (const { folder, want } of goldenModels) {
  describe(folder, () => {
    for (const device of ["cpu", "reference"] as const) {
      test(`logits and loss on ${device}`, () => {
        const { logits, loss } = logitsOf(folder, device, "float32");
        const worst = maxDifference(logits, want.logits);
        assert.ok(worst < 2e-4, `logits differ by ${worst}`);
        assert.ok(Math.abs(loss - want.loss) < 1e-5 * want.loss, `loss ${loss}, expected ${want.loss}`);
      });
    }

    test("greedy tokens through the paged cache, the prompt in pieces of 5", async () => {
      assert.deepEqual(await greedyOf(folder, "cpu", want.greedy), want.greedy.slice(8));
    });
  });
}

test("a document is not changed by its neighbours", () => {
  const model = loadGoldenModel("llama_untied", "cpu");
  const run = (rows: Int32Array[]) => {
    const batch = uploadBatch(packExamples(examplesOf(rows, null)), "cpu");
    const logits = allLogits(model, batch, plainPass("cpu", "float32"));
    const values = logits.toFloat32();
    logits.free();
    freeBatch(batch);
    return values;
  };
  const [first, second] = [ids[0]!.subarray(0, 7), ids[1]!];
  const together = run([first, second]);
  const alone = run([second]);
  assert.ok(maxDifference(together.subarray(first.length * 512), alone) < 1e-5);
  freeModel(model);
});
