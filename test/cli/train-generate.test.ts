// nibble train and nibble generate in one process, on golden models of a few thousand weights.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, type TestContext, test } from "node:test";
import { nibble } from "../support/cli.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";

const model = goldenPath("llama_untied_nf4_dq");
const row = (i: number) => JSON.stringify({ prompt: `The number ${i}`, completion: ` sings ${i * 7} songs` });

function rowsIn(folder: string): string {
  const data = join(folder, "rows.jsonl");
  writeFileSync(data, Array.from({ length: 16 }, (_, i) => `${row(i)}\n`).join(""));
  return data;
}

function trainFlags(t: TestContext, ...more: string[]) {
  const folder = temporaryFolder(t);
  const out = join(folder, "adapter");
  const flags = ["train", "--model", model, "--data", rowsIn(folder), "--out", out, "--rank", "4", "--lr", "0.01"];
  return { out, flags: [...flags, "--threads", "2", ...more] };
}

async function generate(...flags: string[]) {
  const run = await nibble(["generate", "--model", model, "--max-new-tokens", "6", "--json", ...flags]);
  assert.deepEqual([run.code, run.stderr], [0, ""], run.stderr);
  assert.equal(run.stdout.trim().split("\n").length, 1);
  return JSON.parse(run.stdout);
}

describe("train", () => {
  test("writes an adapter that changes what the base says, and a row of metrics a step", async (t) => {
    const { out, flags } = trainFlags(t, "--steps", "12", "--json");
    const run = await nibble(flags);
    assert.equal(run.code, 0, run.stderr);
    const report = JSON.parse(run.stdout);
    assert.equal(report.steps, 12);
    assert.ok(report.lastLoss < report.firstLoss);
    assert.match(run.stderr, /^step 12\/12 {2}loss \d+\.\d+ {2}[\d,]+ tokens\/s {2}[\d.]+ [KM]B {2}done$/m);
    const metrics = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n");
    assert.equal(metrics.length, 12);
    const base = await generate("--prompt", "The number 3");
    const tuned = await generate("--prompt", "The number 3", "--adapter", out);
    assert.notDeepEqual(tuned.token_ids, base.token_ids);
    const continued = trainFlags(t, "--steps", "1", "--init-adapter", out, "--json", "--no-shuffle");
    const again = JSON.parse((await nibble(continued.flags)).stdout);
    assert.ok(again.firstLoss < report.firstLoss, "it goes on from the adapter");
  });

  test("a recipe file and flags over it; held-out rows before and after", async (t) => {
    const { out, flags } = trainFlags(t);
    const config = join(out, "..", "recipe.yaml");
    writeFileSync(config, "steps: 9\nbatch_size: 2\ngrad_accum: 1\n");
    const data = join(out, "..", "rows.jsonl");
    const run = await nibble([...flags, "--config", config, "--steps", "2", "--eval-data", data]);
    assert.equal(run.code, 0, run.stderr);
    assert.match(run.stdout, /trained in 2 steps/);
    assert.match(run.stderr, /^held-out loss before training: /m);
    assert.match(run.stderr, /^held-out loss after step 2: /m);
  });

  test("Ctrl-C in the middle leaves no adapter, whole or partial", async (t) => {
    const { out, flags } = trainFlags(t, "--steps", "100000");
    const run = await nibble(flags, { interrupt: { after: "step ", signal: "SIGINT" } });
    assert.equal(run.code, 130, run.stderr);
    assert.match(run.stderr, /^error: \[nibble\] cancelled$/m);
    assert.equal(run.stdout, "");
    const facts = ["metrics.jsonl", "data.json"];
    const left = existsSync(out) ? readdirSync(out).filter((name) => !facts.includes(name)) : [];
    assert.deepEqual(left, []);
    assert.deepEqual(
      readdirSync(join(out, "..")).filter((name) => name.includes("partial")),
      [],
    );
  });
});

describe("generate", () => {
  let greedy: { token_ids: number[]; text: string };
  before(async () => {
    greedy = await generate("--input-ids", "1,2,3", "--ignore-eos");
  });

  test("--json has the new tokens, their text and speeds", async () => {
    assert.equal(greedy.token_ids.length, 6);
    const { prefill_tokens_per_second: prefill, decode_tokens_per_second: decode } = await generate("--input-ids", "1");
    assert.ok(prefill > 0 && decode > 0);
  });

  test("--logits are those that chose the last token", async () => {
    const { logits, token_ids: ids } = await generate("--input-ids", "1,2,3", "--max-new-tokens", "1", "--logits");
    const { vocab_size: vocabSize } = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
    assert.equal(logits.length, vocabSize);
    assert.equal(logits.indexOf(Math.max(...logits)), ids[0]);
    assert.equal(ids[0], greedy.token_ids[0]);
  });

  test("a seed repeats a sample", async () => {
    const flags = ["--input-ids", "1,2,3", "--temperature", "1", "--top-k", "50", "--ignore-eos"];
    const first = await generate(...flags, "--seed", "7");
    assert.deepEqual((await generate(...flags, "--seed", "7")).token_ids, first.token_ids);
    assert.notDeepEqual((await generate(...flags, "--seed", "8")).token_ids, first.token_ids);
  });

  test("--stop, --regex and --json-schema shape the text; penalties and prompt look-up are heeded", async () => {
    const asked = ["--input-ids", "1,2,3", "--max-new-tokens", "24"];
    const free = await generate(...asked, "--ignore-eos");
    const stop = free.text.slice(4, 6);
    const stopped = await generate(...asked, "--ignore-eos", "--stop", "never there", "--stop", stop);
    assert.deepEqual([stopped.text, stopped.finish_reason], [free.text.slice(0, free.text.indexOf(stop)), "stop"]);
    assert.match((await generate(...asked, "--regex", "(yes|no)!")).text, /^(yes|no)!$/);
    const schema = '{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"]}';
    assert.equal(typeof JSON.parse((await generate(...asked, "--json-schema", schema)).text).ok, "boolean");
    const guessed = await generate(...asked, "--ignore-eos", "--prompt-lookup", "8");
    assert.deepEqual(guessed.token_ids, free.token_ids);
    const penalized = await generate(...asked, "--ignore-eos", "--presence-penalty", "100");
    assert.equal(new Set(penalized.token_ids).size, 24);
    assert.notDeepEqual(penalized.token_ids, free.token_ids);
  });

  test("--n draws answers with seeds of their own, --logprobs tells how likely each token was", async () => {
    const flags = ["--input-ids", "1,2,3", "--temperature", "1", "--ignore-eos"];
    const { answers } = await generate(...flags, "--n", "3", "--seed", "7");
    const alone = await generate(...flags, "--seed", "8", "--logprobs", "2");
    assert.equal(answers.length, 3);
    assert.deepEqual(answers[1].token_ids, alone.token_ids);
    assert.notDeepEqual(answers[0].token_ids, answers[1].token_ids);
    assert.equal(alone.logprobs.length, 6);
    for (const { id, logprob, top } of alone.logprobs) {
      assert.deepEqual([top.length, top[0].logprob >= logprob, logprob <= 0], [2, true, true]);
      assert.ok(alone.token_ids.includes(id));
    }
    // What is no whole character at the end belongs to no token.
    assert.ok(alone.text.startsWith(alone.logprobs.map(({ text }: { text: string }) => text).join("")));
    const run = await nibble(["generate", "--model", model, ...flags, "--n", "2", "--max-new-tokens", "2"]);
    assert.match(run.stdout, /^\[0\] .*\[1\] /s);
  });

  test("without --json the text is on stdout and the speeds are on stderr", async () => {
    const run = await nibble([
      "generate",
      "--model",
      model,
      "--input-ids",
      "1,2,3",
      "--max-new-tokens",
      "6",
      "--ignore-eos",
    ]);
    assert.equal(run.stdout, `${greedy.text}\n`);
    assert.match(
      run.stderr,
      /^\(3 \+ 6 tokens, prefill [\d.]+ tokens\/s, decode [\d.]+ tokens\/s, ended by length\)\n$/,
    );
  });

  test("an adapter of another base, an unknown adapter and ids outside the vocabulary are refused", async (t) => {
    const { out, flags } = trainFlags(t, "--steps", "1");
    assert.equal((await nibble(flags)).code, 0);
    const other = ["generate", "--model", goldenPath("llama_tied_nf4_dq"), "--prompt", "a", "--adapter"];
    for (const args of [
      [...other, out],
      [...other, "no/adapter"],
      ["generate", "--model", model, "--input-ids", "1,99999"],
      ["generate", "--model", model, "--input-ids", "1", "--max-new-tokens", "1000000"],
    ]) {
      const run = await nibble(args);
      assert.deepEqual([run.code, run.stdout], [2, ""], run.stderr);
      assert.match(run.stderr, /^error: \[\w+\] [^\n]+\n$/);
    }
  });

  test("chat answers each line of stdin, with what was said before", async () => {
    const run = await nibble(["chat", "--model", model, "--max-new-tokens", "4", "--ignore-eos"], {
      input: "hi\nand now?\n",
    });
    assert.equal(run.code, 0, run.stderr);
    assert.ok(run.stdout.endsWith("\n"));
    const first = await nibble(["chat", "--model", model, "--max-new-tokens", "4", "--ignore-eos"], { input: "hi\n" });
    assert.ok(run.stdout.startsWith(first.stdout) && run.stdout.length > first.stdout.length);
  });
});
