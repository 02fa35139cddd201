import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.ts";
import { readDataset } from "./dataset.ts";
import { formats } from "./formats.ts";
import { locateData, namesSet } from "./locate.ts";
import { paperSets } from "./paper-sets.ts";
import { type FetchDataset, fetchFromHub } from "./sources/hub.ts";

/** A Hub that has `paths` in each repository and remembers what it was asked for. */
function hub(paths: readonly string[]) {
  const asked: string[] = [];
  const fetch: FetchDataset = async ({ id, revision }, select) => {
    asked.push(`${id}@${revision}`);
    return select(paths);
  };
  return { asked, fetch };
}
const { signal } = new AbortController();
const noHub: FetchDataset = () => assert.fail("nothing should be asked of the Hub");

test("files and folders, with a split", async (t) => {
  const folder = temporaryFolder(t);
  for (const name of ["train.jsonl", "test.jsonl"]) writeFileSync(join(folder, name), "");
  const file = join(folder, "test.jsonl");
  assert.deepEqual(await locateData(file, noHub, signal), { name: file, files: [file], format: null });
  assert.deepEqual((await locateData(folder, noHub, signal)).files, [join(folder, "train.jsonl")]);
  assert.deepEqual((await locateData(`${folder}:test`, noHub, signal)).files, [file]);
  await assert.rejects(locateData(`${folder}:validation`, noHub, signal), /split validation, got files of train, test/);
  await assert.rejects(locateData(join(folder, "no.jsonl"), noHub, signal), {
    code: "NOT_FOUND",
    message: /expected a file, a folder, one of oasst1, /,
  });
});

test("the paper's sets by name: where they are, which files, which format", async () => {
  const files: Record<string, [string[], string[]]> = {
    oasst1: [
      ["openassistant_best_replies_eval.jsonl", "openassistant_best_replies_train.jsonl"],
      ["openassistant_best_replies_train.jsonl"],
    ],
    "hh-rlhf": [
      [
        "harmless-base/train.jsonl.gz",
        "helpful-online/train.jsonl.gz",
        "red-team-attempts/red_team_attempts.jsonl.gz",
        "helpful-base/test.jsonl.gz",
      ],
      ["harmless-base/train.jsonl.gz", "helpful-online/train.jsonl.gz"],
    ],
    alpaca: [
      ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
      ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
    ],
    "alpaca-clean": [["alpaca_data_cleaned.json"], ["alpaca_data_cleaned.json"]],
    "self-instruct": [
      ["self_instruct/train/0000.parquet", "p3/train/0000.parquet", "super_natural_instructions/train/0000.parquet"],
      ["self_instruct/train/0000.parquet"],
    ],
    "unnatural-instructions": [["data/train-00000-of-00001.parquet"], ["data/train-00000-of-00001.parquet"]],
    "flan-v2": [
      ["cot_zs_opt_train.jsonl.gz", "niv2_zs_noopt_train.jsonl.gz", "dialog_zs_opt_train.jsonl.gz"],
      ["cot_zs_opt_train.jsonl.gz", "niv2_zs_noopt_train.jsonl.gz"],
    ],
    chip2: [["unified_chip2.jsonl", "unified_abstract_infill.jsonl"], ["unified_chip2.jsonl"]],
    longform: [["data/train-0.parquet", "data/test-0.parquet"], ["data/train-0.parquet"]],
  };
  assert.deepEqual(Object.keys(files).sort(), Object.keys(paperSets).sort());
  for (const [name, [there, wanted]] of Object.entries(files)) {
    const { asked, fetch } = hub(there);
    const source = await locateData(name, fetch, signal);
    assert.deepEqual(source.files, wanted, name);
    assert.ok(
      formats.some((format) => format.name === source.format),
      name,
    );
    assert.deepEqual(asked, [`${paperSets[name]?.repo}@${paperSets[name]?.revision}`]);
  }
});

test("any data set of the Hub, with revision and split", async () => {
  const { asked, fetch } = hub(["train.csv", "dev.csv"]);
  assert.deepEqual((await locateData("org/name@v1.0:validation", fetch, signal)).files, ["dev.csv"]);
  assert.deepEqual((await locateData("org/name", fetch, signal)).files, ["train.csv"]);
  assert.deepEqual(asked, ["org/name@v1.0", "org/name@main"]);
  const names = ["org/name", "alpaca", "alpaca:test", "org/name@main:dev"];
  assert.ok(names.every(namesSet));
  assert.ok(["rows/a.jsonl", "./rows", "/a/b", "packages/data", "rows"].every((name) => !namesSet(name)));
});

test("a data set in the cache that other tools share", async (t) => {
  const cache = temporaryFolder(t);
  const folder = join(cache, "datasets--org--name");
  mkdirSync(join(folder, "refs"), { recursive: true });
  mkdirSync(join(folder, "snapshots", "abc"), { recursive: true });
  writeFileSync(join(folder, "refs", "main"), "abc");
  writeFileSync(join(folder, "snapshots", "abc", "train.jsonl"), '{"text": "a"}');
  const settings = { HF_HUB_CACHE: cache, HF_HUB_OFFLINE: "1" };
  const before = Object.keys(settings).map((key) => [key, process.env[key]] as const);
  Object.assign(process.env, settings);
  t.after(() => {
    for (const [key, value] of before) {
      if (value === undefined) delete process.env[key];
      else process.env[key] = value;
    }
  });
  const { files } = await locateData("org/name", fetchFromHub, signal);
  assert.equal((await readDataset(files[0] ?? ""))[0]?.row.kind, "text");
  await assert.rejects(locateData("org/name@other", fetchFromHub, signal), {
    code: "NOT_FOUND",
    message: /org\/name@other: expected it in/,
  });
});
