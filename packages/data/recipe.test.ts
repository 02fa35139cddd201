import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.ts";
import { parseRecipe, printRecipe, readRecipe, stepsOf } from "./recipe.ts";
import { flagName, recipeFields, yamlKey } from "./recipe-fields.ts";

const paths = { model: "m", data: "d.jsonl", out: "o" };
const withYaml = (text: string, flags: Record<string, unknown> = {}) =>
  parseRecipe({ yaml: { text: `model: m\ndata: d.jsonl\nout: o\n${text}`, file: "recipe.yaml" }, flags });

test("the defaults", () => {
  const recipe = parseRecipe({ flags: paths });
  assert.deepEqual(
    [recipe.rank, recipe.alpha, recipe.dropout, recipe.targets, recipe.bits, recipe.quantType, recipe.doubleQuant],
    [16, 16, 0, "all-linear", 4, "nf4", true],
  );
  assert.deepEqual(
    [recipe.lr, recipe.schedule, recipe.maxGradNorm, recipe.weightDecay, recipe.beta1, recipe.beta2, recipe.eps],
    [2e-4, "constant", 0.3, 0, 0.9, 0.999, 1e-8],
  );
  assert.deepEqual([recipe.seed, recipe.shuffle, recipe.batchSize * recipe.gradAccum], [42, true, 16]);
  assert.equal(Object.keys(recipe).length, recipeFields.length);
});

test("flags win over the file, the file over the defaults; flags are text", () => {
  const recipe = withYaml("lr: 1e-4\nrank: 8\ngrad_accum: 2\nshuffle: false\ntargets: [q_proj, v_proj]", {
    rank: "64",
    weightDecay: "0.01",
    gradAccum: undefined,
    dtype: "float32",
    bits: "16",
  });
  assert.deepEqual([recipe.lr, recipe.rank, recipe.gradAccum, recipe.shuffle], [1e-4, 64, 2, false]);
  assert.deepEqual([recipe.weightDecay, recipe.dtype, recipe.bits], [0.01, "float32", 16]);
  assert.deepEqual(recipe.targets, ["q_proj", "v_proj"]);
  const checkpointing = ["gradient_checkpointing: true", "gradient_checkpointing: false", ""].map(
    (text) => withYaml(text).gradientCheckpointing,
  );
  assert.deepEqual(checkpointing, ["full", "none", "selective"]);
  assert.deepEqual(parseRecipe({ flags: { ...paths, targets: "q_proj, v_proj" } }).targets, recipe.targets);
});

test("activations are bfloat16, but float32 where every weight is trained, unless the caller says", () => {
  const dtypeOf = (text: string) => withYaml(text).dtype;
  assert.equal(dtypeOf(""), "bfloat16");
  assert.equal(dtypeOf("full: true\nbits: 16"), "float32");
  assert.equal(dtypeOf("full: true\nbits: 16\ndtype: bfloat16"), "bfloat16");
  assert.equal(dtypeOf("dtype: float32"), "float32");
});

test("unknown keys and wrong values are errors that say what to write", () => {
  const cases: [string, RegExp][] = [
    ["learning_rate: 1", /recipe\.yaml: unknown key learning_rate$/],
    ["ranks: 4", /unknown key ranks; did you mean rank\?/],
    ["weight-decay: 0", /unknown key weight-decay; did you mean weight_decay\?/],
    ["grad_acum: 4", /did you mean grad_accum\?/],
    ["rank: 0", /rank: expected a whole number >= 1, got 0/],
    ["rank: 1.5", /rank: expected a whole number/],
    ["lr: fast", /lr: expected a number > 0, got "fast"/],
    ["lr: .nan", /lr: expected a number > 0/],
    ["dropout: 1", /dropout: expected a number in 0\.\.1, 1 excluded, got 1/],
    ["schedule: step", /schedule: expected one of constant, linear, cosine, got "step"/],
    ["block_size: 60", /block_size: expected one of 32, 64.*, got 60/],
    [
      "gradient_checkpointing: some",
      /gradient_checkpointing: expected one of none, selective, full, offload, got "some"/,
    ],
    ["shuffle: maybe", /shuffle: expected true or false/],
    ["targets: []", /targets: expected all-linear or a list/],
    ["rank: null", /rank: expected a whole number >= 1, got null/],
    ["rank: 1\nrank: 2", /recipe\.yaml: Map keys must be unique/],
    ["rank: [", /recipe\.yaml: /],
    ["steps: 10\nepochs: 2", /expected one of the two, got both/],
    ["full: true", /full: expected bits 16/],
    ["warmup: 1.5", /warmup: expected whole steps or a part below 1/],
    ["steps: 5\nwarmup: 6", /warmup: expected at most the 5 steps/],
  ];
  for (const [text, message] of cases) assert.throws(() => withYaml(text), { code: "INVALID_ARGUMENT", message });
  assert.throws(() => parseRecipe({ flags: { ...paths, lora: 1 } }), /flags: unknown key lora/);
  assert.throws(() => parseRecipe({ flags: { model: "m", out: "o" } }), /data: expected training rows.*, got nothing/);
  assert.throws(() => parseRecipe({ yaml: { text: "- a", file: "r.yaml" } }), /r\.yaml: expected keys and values/);
});

test("steps on the command line win over epochs in the file", () => {
  assert.equal(withYaml("epochs: 3", { steps: "7" }).steps, 7);
  assert.deepEqual(stepsOf({ steps: null, epochs: 1.5, warmup: 0.03 }, 100), { steps: 150, warmupSteps: 5 });
  assert.deepEqual(stepsOf({ steps: 20, epochs: 1, warmup: 4 }, 100), { steps: 20, warmupSteps: 4 });
});

test("a printed recipe parses to itself", (t) => {
  const file = join(temporaryFolder(t), "recipe.yaml");
  for (const flags of [paths, { ...paths, steps: 10, targets: "q_proj", lr: "3e-5", initAdapter: "a", threads: 2 }]) {
    const recipe = parseRecipe({ flags });
    writeFileSync(file, printRecipe(recipe));
    assert.deepEqual(readRecipe({ file }), recipe);
  }
  assert.throws(() => readRecipe({ file: "/no/such.yaml" }), { code: "NOT_FOUND" });
});

test("names of keys and flags", () => {
  const field = (key: string) => recipeFields.find((f) => f.key === key)!;
  assert.deepEqual(["weightDecay", "beta1"].map(yamlKey), ["weight_decay", "beta1"]);
  assert.deepEqual(
    ["gradAccum", "shuffle", "doubleQuant", "gradientCheckpointing"].map((k) => flagName(field(k))),
    ["--grad-accum", "--no-shuffle", "--no-double-quant", "--gradient-checkpointing"],
  );
});
