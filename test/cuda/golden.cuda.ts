// The golden models and runs on the CUDA device: bits of 4-bit codes, logits, losses and tokens in float32 within the
// tolerances of the CPU, in bfloat16 within its own. Run it on a card with NIBBLE_REQUIRE_CUDA=1; emulated.test.ts runs it
// without one.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { cuda } from "#native";
import { checkCodec, codecCases } from "../support/codec-golden.ts";
import { goldenModels, greedyOf, logitsOf } from "../support/golden-logits.ts";
import { maxDifference, relativeDifference } from "../support/golden-model.ts";
import { goldenRuns, snapshotOf, trainGolden } from "../support/golden-train.ts";

const device = "cuda";
/** bfloat16 has 8 bits: activations of a few layers are off by some 2^-8 of their size. Set before the first run. */
const bf16 = { logits: 2e-2, loss: 5e-3, trainedLoss: 2e-2, gradNorm: 5e-2 };

/** The emulation takes seconds for one; a card runs all. */
const steps = cuda.device()?.architecture === "host" ? 4 : 20;

test(`codes, constants and values of ${codecCases.length} cases of bitsandbytes, bit for bit`, () => {
  for (const c of codecCases) checkCodec(c, device);
});

for (const { folder, want } of goldenModels) {
  describe(folder, () => {
    test("logits and loss in float32", () => {
      const { logits, loss } = logitsOf(folder, device, "float32");
      const worst = maxDifference(logits, want.logits);
      assert.ok(worst < 2e-4, `logits differ by ${worst}`);
      assert.ok(Math.abs(loss - want.loss) < 1e-5 * want.loss, `loss ${loss}, expected ${want.loss}`);
    });

    test("logits and loss in bfloat16", () => {
      const { logits, loss } = logitsOf(folder, device, "bfloat16");
      const off = relativeDifference(logits, want.logits);
      assert.ok(off < bf16.logits, `logits differ by ${off} of their size`);
      assert.ok(Math.abs(loss - want.loss) < bf16.loss * want.loss, `loss ${loss}, expected ${want.loss}`);
    });

    test("greedy tokens through the paged cache, the prompt in pieces of 5", async () => {
      assert.deepEqual(await greedyOf(folder, device, want.greedy), want.greedy.slice(8));
    });
  });
}

function close(actual: readonly number[], expected: readonly number[], tolerance: (i: number) => number, what: string) {
  expected.slice(0, steps).forEach((want, i) => {
    const off = Math.abs((actual[i] ?? Number.NaN) - want) / want;
    assert.ok(off <= tolerance(i), `${what} of step ${i}: ${actual[i]}, expected ${want}, off by ${off}`);
  });
}

for (const [name, golden] of goldenRuns) {
  describe(`PEFT's run ${name}`, () => {
    const plain = { device, dtype: "float32", optimizer: "adamw_32bit", gradientCheckpointing: "none", steps } as const;

    test(`${steps} losses and gradient norms in float32, the same bits with checkpointing and with paged state`, async () => {
      const whole = await trainGolden(golden.base, { ...plain, split: false });
      close(whole.losses, golden.loss, (i) => 1e-5 * 10 ** (i / 19), "loss");
      close(whole.norms, golden.grad_norm, () => 1e-4, "gradient norm");
      const others = [
        await trainGolden(golden.base, { ...plain, gradientCheckpointing: "full", split: false }),
        await trainGolden(golden.base, { ...plain, gradientCheckpointing: "selective", split: false }),
        await trainGolden(golden.base, { ...plain, gradientCheckpointing: "offload", split: false }),
        await trainGolden(golden.base, { ...plain, optimizer: "paged_adamw_32bit", split: false }),
      ];
      for (const run of others) {
        assert.deepEqual(run.losses, whole.losses);
        assert.deepEqual(snapshotOf(run.adapter), snapshotOf(whole.adapter));
        run.free();
      }
      whole.free();
    });

    test(`${steps} losses and gradient norms in bfloat16`, async () => {
      const run = await trainGolden(golden.base, { ...plain, dtype: "bfloat16", split: true });
      close(run.losses, golden.loss, () => bf16.trainedLoss, "loss");
      close(run.norms, golden.grad_norm, () => bf16.gradNorm, "gradient norm");
      run.free();
    });
  });
}
