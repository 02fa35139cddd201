// The QLoRA paper's sets by name, through a Hub: small files in each set's real form (its paths, columns and compression,
// with rows of our own) at the repository that the name stands for, and what is trained on then.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { createBranch, createRepo, uploadFiles } from "@huggingface/hub";
import { alpacaPrompt, locateData, paperSets, type Row, RowReader } from "#packages/data";
import { fetchFromHub } from "../../packages/data/sources/hub.ts";
import { blobOf, startHub, type TestHub } from "../../services/adapter-registry/hub/test/support.ts";
import { setEnvironment } from "../support/environment.ts";
import { temporaryFolder } from "../support/folders.ts";

interface Sample {
  /** Of the repository, those that do not belong to the set as well. */
  files: Record<string, string | Uint8Array>;
  rows: Row[];
  unused: string[];
}

const parquet = (name: string) =>
  readFileSync(fileURLToPath(new URL(`../data/paper-sets/${name}.parquet`, import.meta.url)));
const lines = (...rows: object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
const zipped = (...rows: object[]) => gzipSync(lines(...rows));
const completion = (prompt: string, answer: string): Row => ({ kind: "completion", prompt, completion: answer });
const text = (all: string): Row => ({ kind: "text", text: all });

const dialogue = "### Human: Hi### Assistant: Hello.### Human: Bye### Assistant: See you.";
const chosen = "\n\nHuman: Hi\n\nAssistant: Hello.";
const adding = { instruction: "Add.", input: "2 and 2", output: "4" };
const cot = { inputs: "Q: two and two? Think.", targets: "It is 4.", task: "cot" };
const niv2 = { inputs: "Definition: add. 1, 2", targets: "3", task: "niv2" };

const samples: Record<string, Sample> = {
  oasst1: {
    files: {
      "openassistant_best_replies_train.jsonl": lines({ text: dialogue }),
      "openassistant_best_replies_eval.jsonl": lines({ text: "held out" }),
    },
    rows: [text(dialogue)],
    unused: [],
  },
  "hh-rlhf": {
    files: {
      "harmless-base/train.jsonl.gz": zipped({ chosen, rejected: "\n\nHuman: Hi\n\nAssistant: No." }),
      "helpful-base/test.jsonl.gz": zipped({ chosen: "held out", rejected: "" }),
      "helpful-base/train.jsonl.gz": zipped({ chosen: `${chosen} You?`, rejected: "" }),
      "red-team-attempts/red_team_attempts.jsonl.gz": zipped({ transcript: "", rating: 4 }),
    },
    rows: [text(chosen), text(`${chosen} You?`)],
    unused: [],
  },
  alpaca: {
    files: { "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet": parquet("alpaca") },
    rows: [completion(alpacaPrompt("Add.", "2 and 2"), "4"), completion(alpacaPrompt("Say hi.", ""), "Hi.")],
    unused: ["text"],
  },
  "alpaca-clean": {
    files: { "alpaca_data_cleaned.json": JSON.stringify([adding], null, 2) },
    rows: [completion(alpacaPrompt("Add.", "2 and 2"), "4")],
    unused: [],
  },
  "self-instruct": {
    files: { "self_instruct/train/0000.parquet": parquet("self-instruct"), "p3/train/0000.parquet": "none of ours" },
    rows: [completion("Add the numbers.\n2 and 2\n\nOutput:", " 4<|endoftext|>")],
    unused: [],
  },
  "unnatural-instructions": {
    files: { "data/train-00000-of-00001.parquet": parquet("unnatural-instructions") },
    rows: [completion("Add two numbers: 2, 2", "4"), completion("Add two numbers: 1, 2", "3")],
    unused: ["reformulations"],
  },
  "flan-v2": {
    files: {
      "cot_zs_noopt_train.jsonl.gz": zipped(cot),
      "niv2_zs_opt_train.jsonl.gz": zipped(niv2),
      "niv2_fs_opt_train.jsonl.gz": zipped({ inputs: "with examples", targets: "", task: "" }),
      "dialog_zs_opt_train.jsonl.gz": zipped({ inputs: "of another part", targets: "", task: "" }),
    },
    rows: [completion(cot.inputs, cot.targets), completion(niv2.inputs, niv2.targets)],
    unused: ["task"],
  },
  chip2: {
    files: {
      "unified_chip2.jsonl": lines({ text: "<human>: Hi\n<bot>: Hello.", metadata: { source: "chip2" } }),
      "unified_abstract_infill.jsonl": lines({ text: "of another part", metadata: {} }),
    },
    rows: [completion("Hi", "Hello.")],
    unused: ["metadata"],
  },
  longform: {
    files: {
      "data/train-00000-of-00001.parquet": parquet("longform"),
      "data/test-00000-of-00001.parquet": "held out",
    },
    rows: [completion("Tell a story.", "Once there was a small model.")],
    unused: ["source", "subset"],
  },
};

async function publish({ as }: TestHub, name: string, { files }: Sample): Promise<void> {
  const { repo: id = "", revision: branch = "main" } = paperSets[name] ?? {};
  const repo = { type: "dataset", name: id } as const;
  await createRepo({ repo, ...as });
  if (branch !== "main") await createBranch({ repo, branch, ...as });
  const all = Object.entries(files).map(([path, content]) => ({ path, content: blobOf(content) }));
  await uploadFiles({ repo, branch, files: all, useXet: false, ...as });
}

test("every set of the paper, by its name, from a Hub", async (t) => {
  const hub = await startHub(t);
  setEnvironment(t, { HF_HOME: temporaryFolder(t), HF_ENDPOINT: hub.hubUrl, HF_HUB_OFFLINE: undefined });
  assert.deepEqual(Object.keys(samples).sort(), Object.keys(paperSets).sort());
  for (const [name, sample] of Object.entries(samples)) {
    await publish(hub, name, sample);
    const reader = new RowReader(await locateData(name, fetchFromHub, new AbortController().signal));
    const rows: Row[] = [];
    for await (const { row } of reader.rows()) rows.push(row);
    assert.deepEqual(rows, sample.rows, name);
    assert.deepEqual([...reader.unused].sort(), sample.unused, name);
  }
});
