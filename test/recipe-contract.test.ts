// A training job over gRPC means what the same `nibble train` means: fields and defaults are those of the recipe.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { recipeFields } from "../packages/data/recipe-fields.ts";

const source = readFileSync("proto/nibble/trainer/v1/spec.proto", "utf8");

/** The recipe's name where the contract has another one. */
const renamed: Record<string, string> = {
  model: "model_dir",
  data: "data_file",
  out: "output_dir",
  initAdapter: "init_adapter_dir",
  full: "full_parameter",
  rslora: "use_rslora",
  targets: "target_modules",
  lr: "learning_rate",
  beta1: "adam_beta1",
  beta2: "adam_beta2",
  eps: "adam_epsilon",
  gradientCheckpointing: "checkpointing",
  dtype: "compute_dtype",
  memoryLimit: "memory_limit_bytes",
};

/** What the contract writes where it does not write the value itself. */
const worded: Record<string, string> = { steps: "epochs decides", threads: "the server's setting" };

for (const { key, fallback } of recipeFields) {
  const name = renamed[key] ?? key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  test(`${name} is in the contract, with the recipe's default`, () => {
    const found = source.match(new RegExp(`((?: *//.*\\n)+) *[\\w. ]+ ${name} = \\d+`));
    assert.ok(found, `expected a field ${name} in spec.proto`);
    const stated = (found[1] ?? "").replaceAll(/\n *\/\//g, "").match(/Default: (.*?)\.?\s*$/)?.[1];
    if (fallback === undefined || fallback === null || fallback === "all-linear")
      return assert.equal(stated, worded[key]);
    const value = stated !== undefined && Number.isFinite(Number(stated)) ? Number(stated) : stated?.toLowerCase();
    assert.equal(String(value), String(fallback));
  });
}
