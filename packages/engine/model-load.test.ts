// A load that fails half-way gives back what it took: the trainer and the inference service live on.
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { freeOnThrow, memory, Tensor } from "#native";
import { openModelFolder } from "#packages/hub";
import { goldenPath } from "../../test/support/golden-model.ts";
import { loadModel } from "./model-load.ts";
import { defaultQuant } from "./quantize-tensor.ts";
import { ServedModel } from "./served-model.ts";

const folder = mkdtempSync(join(tmpdir(), "nibble-load-"));
after(() => rmSync(folder, { recursive: true }));

const inUse = (): number => Object.values(memory.report().current).reduce((a, b) => a + b, 0);

/** A copy of a golden model with a NaN in one of its float tensors. */
function damaged(golden: string, tensor: string): string {
  const copy = join(folder, golden);
  cpSync(goldenPath(golden), copy, { recursive: true });
  const file = join(copy, "model.safetensors");
  const bytes = readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerBytes));
  bytes.writeFloatLE(Number.NaN, 8 + headerBytes + header[tensor].data_offsets[0]);
  writeFileSync(file, bytes);
  return copy;
}

for (const [golden, tensor, quant] of [
  ["llama_untied", "model.layers.1.mlp.down_proj.weight", defaultQuant],
  ["llama_untied_i192", "model.norm.weight", null],
  ["llama_untied_nf4_dq", "model.layers.1.mlp.down_proj.weight.nested_absmax", null],
] as const) {
  test(`NaN in ${tensor} of ${golden}`, () => {
    const before = inUse();
    using source = openModelFolder(damaged(golden, tensor));
    assert.throws(() => loadModel(source, { device: "cpu", quant }), /NaN/);
    assert.equal(inUse(), before);
  });
}

test("a cache that the memory limit refuses takes the model with it", () => {
  const before = inUse();
  const limits = { sequencesMax: 1, stepTokensMax: 8, waitingMax: 1, cacheTokensMax: 1 << 20 };
  const options = {
    modelDir: goldenPath("llama_tied"),
    device: "cpu",
    dtype: "float32",
    quant: null,
    ...limits,
  } as const;
  memory.setLimit(before + (8 << 20));
  try {
    assert.throws(() => ServedModel.open(options), { code: "RESOURCE_EXHAUSTED" });
  } finally {
    memory.setLimit(0);
  }
  assert.equal(inUse(), before);
});

test("what was made before, or freed within, is not freed again", () => {
  const before = inUse();
  const make = () => Tensor.empty("float32", [16], { device: "cpu", kind: "workspace" });
  const outside = make();
  const kept = freeOnThrow(make);
  assert.throws(() =>
    freeOnThrow(() => {
      freeOnThrow(make);
      make().free();
      throw new Error("half-way");
    }),
  );
  outside.free();
  kept.free();
  assert.equal(inUse(), before);
});
