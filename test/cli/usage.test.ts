// What the command line says to wrong input: one line, the right exit code, nothing on stdout.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { nibble } from "../support/cli.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";

async function refused(args: readonly string[], message: RegExp, code = 2): Promise<void> {
  const run = await nibble(args);
  assert.match(run.stderr, message, args.join(" "));
  assert.match(run.stderr, /^error: \[[a-z_]+\] [^\n]+\n$/, `one line: ${run.stderr}`);
  assert.deepEqual([run.code, run.stdout], [code, ""], args.join(" "));
}

test("help and version go to stdout with exit code 0", async () => {
  const help = await nibble(["--help"]);
  assert.deepEqual([help.code, help.stderr], [0, ""]);
  for (const command of ["quantize", "train", "estimate", "generate", "chat", "adapters", "jobs", "start"]) {
    assert.match(help.stdout, new RegExp(`^  ${command} `, "m"));
  }
  assert.equal((await nibble(["help"])).stdout, help.stdout);
  assert.match((await nibble(["adapters", "help", "push"])).stdout, /^Usage: nibble adapters push /);
  const version = await nibble(["--version"]);
  assert.deepEqual([version.code, version.stderr], [0, ""]);
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/);
});

test("a card that is asked for and not there is an error, not the CPU", async (t) => {
  const folder = temporaryFolder(t);
  const rows = join(folder, "rows.jsonl");
  writeFileSync(rows, '{"text": "a b c"}\n');
  const args = ["--model", goldenPath("llama_tied"), "--data", rows, "--out", join(folder, "out"), "--device", "cuda"];
  const run = await nibble(["train", ...args], { env: { CUDA_VISIBLE_DEVICES: "" } });
  assert.match(run.stderr, /^error: \[device\] device: expected a CUDA device, got none/m);
  assert.notEqual(run.code, 0);
});

test("every field of a recipe is a flag of train", async () => {
  const { stdout } = await nibble(["train", "--help"]);
  for (const flag of ["--init-adapter", "--no-shuffle", "--gradient-checkpointing", "--bits <4|16>", "--full"]) {
    assert.ok(stdout.includes(`  ${flag} `), flag);
  }
});

test("wrong command lines", async () => {
  const generate = ["generate", "--model", "m"];
  await refused(["train", "--rnk", "4"], /\[usage\] unknown option '--rnk' \(Did you mean --rank\?\)/);
  await refused(["qantize"], /unknown command 'qantize' \(Did you mean quantize\?\)/);
  await refused(["help", "foo"], /\[usage\] help: expected one of quantize, train, .*, start, got foo/);
  await refused(["adapters", "help", "foo"], /\[usage\] help: expected one of list, push, pull, alias, got foo/);
  await refused(["quantize", "m"], /required option '--out <dir>' not specified/);
  await refused(
    ["quantize", "m", "--out", "o", "--type", "nf5"],
    /'nf5' is invalid. Allowed choices are nf4, fp4, int4/,
  );
  await refused(["quantize", "m", "--out", "o", "--block-size", "60"], /'60' is invalid/);
  for (const command of [["quantize", "m"], ["merge"], ["export"], ["adapters", "pull", "a"]])
    await refused([...command, "--out", ""], /'--out <\w+>' .*expected a path, got an empty text/);
  await refused(["train", "--model", "m", "--data", "d", "--out", ""], /out: expected a text that is not empty/);
  await refused(generate, /expected one of --prompt and --input-ids/);
  await refused([...generate, "--prompt", "a", "--input-ids", "1"], /expected one of/);
  await refused([...generate, "--input-ids", "1,x"], /expected token ids such as 1,2,3/);
  await refused([...generate, "--prompt", "a", "--max-new-tokens", "0"], /expected a whole number >= 1/);
  await refused([...generate, "--prompt", "a", "--top-p", "0"], /expected a number in 0\.\.1, 0 excluded/);
  await refused([...generate, "--prompt", "a", "--logits"], /--logits: expected --json/);
  const asked = [...generate, "--prompt", "a"];
  await refused([...asked, "--logprobs", "2"], /--logprobs: expected --json/);
  await refused([...asked, "--json", "--logprobs", "21"], /--logprobs <k>.*expected a whole number in 0\.\.20/);
  await refused([...asked, "--n", "0"], /--n <n>.*expected a whole number in 1\.\.64/);
  await refused([...asked, "--seed", "4294967296"], /--seed <n>.*expected a whole number in 0\.\.4294967295/);
  await refused([...asked, "--temperature", "101"], /--temperature <t>.*expected a number in 0\.\.100/);
  await refused([...asked, "--frequency-penalty", "101"], /--frequency-penalty <x>.*expected a number in -100\.\.100/);
  await refused([...asked, "--stop", ""], /--stop <text>.*expected a text of 1 to 1024 bytes/);
  await refused([...asked, "--regex", "("], /--regex <pattern>.*expected a regular expression/);
  await refused([...asked, "--json-schema", "{"], /--json-schema <schema>.*expected a JSON Schema/);
  await refused([...asked, "--json-schema", "no-such.json"], /--json-schema <schema>.*no such file/);
  await refused([...asked, "--json-schema", "{}", "--regex", "a"], /'--json-schema <schema>' cannot be used with/);
  await refused([...asked, "--regex", "a", "--ignore-eos"], /--ignore-eos: expected no --json-schema or --regex/);
  await refused([...asked, "--prompt-lookup", "17"], /--prompt-lookup <n>.*expected a whole number in 0\.\.16/);
  await refused(["generate", "--prompt", "a"], /required option '--model <dir>' not specified/);
});

test("wrong recipes", async (t) => {
  const config = join(temporaryFolder(t), "recipe.yaml");
  writeFileSync(config, "model: m\ndata: d\nout: o\ngrad_acum: 2\n");
  const paths = ["--model", "m", "--data", "d.jsonl", "--out", "o"];
  await refused(["train", "--config", config], /unknown key grad_acum; did you mean grad_accum\?/);
  await refused(["train", "--config", "no-such.yaml"], /no-such\.yaml: expected a recipe to read: ENOENT/);
  await refused(["train", "--config", dirname(config)], /: expected a recipe to read: EISDIR/);
  await refused(["train", ...paths, "--memory-limit", "much"], /memory_limit: expected bytes > 0, .*, got "much"/);
  await refused(["train", "--model", "m", "--out", "o"], /data: expected training rows/);
  await refused(["train", ...paths, "--rank", "0"], /rank: expected a whole number >= 1, got "0"/);
  await refused(["train", ...paths, "--full"], /full: expected bits 16/);
});

test("what is not there is named, and nothing is written", async (t) => {
  const out = join(temporaryFolder(t), "out");
  const model = goldenPath("llama_tied");
  await refused(["quantize", "no/model", "--out", out], /no\/model/);
  await refused(["generate", "--model", "no/model", "--prompt", "a"], /no\/model/);
  await refused(["train", "--model", "no/model", "--data", "d.jsonl", "--out", out], /no\/model/);
  await refused(["train", "--model", model, "--data", "no.jsonl", "--out", out], /no\.jsonl/);
  assert.equal(existsSync(out), false);
});

test("a file where a folder should be is named before any work", async (t) => {
  const folder = temporaryFolder(t);
  const [file, rows] = [join(folder, "file"), join(folder, "rows.jsonl")];
  writeFileSync(file, "precious");
  writeFileSync(rows, '{"prompt":"a","completion":"b"}\n');
  const model = goldenPath("llama_tied");
  const train = ["train", "--model", model, "--data", rows];
  await refused(["quantize", file, "--out", join(folder, "out")], /file: no config\.json; expected a model folder/);
  for (const out of [file, join(file, "in", "it")]) {
    await refused(["quantize", model, "--out", out], /^error: \[output\] \S+file: expected a folder, got a file/);
    await refused([...train, "--out", out], /^error: \[output\] \S+file: expected a folder, got a file/);
  }
  const named = [...train, "--out", join(folder, "out"), "--targets", "q_proj,qkv"];
  assert.match((await nibble(named)).stderr, /expected all-linear or some of q_proj, .*, down_proj, got qkv\n$/);
  assert.equal(readFileSync(file, "utf8"), "precious");
});

test("rows are refused with file and line", async (t) => {
  const folder = temporaryFolder(t);
  const data = join(folder, "rows.jsonl");
  const train = ["train", "--model", goldenPath("llama_tied"), "--data", data, "--out", join(folder, "out")];
  writeFileSync(data, '{"prompt":"a","completion":"b"}\n{"prompt":"a","completions":"b"}\n');
  await refused(train, /rows\.jsonl:2: expected the columns of prompt-completion/);
  writeFileSync(data, "");
  await refused(train, /rows\.jsonl: expected rows, got an empty file/);
  assert.equal(existsSync(join(folder, "out")), false);
});

test("NIBBLE_DEBUG=1 shows where an error came from", async () => {
  const run = await nibble(["generate", "--model", "no/model", "--prompt", "a"], { env: { NIBBLE_DEBUG: "1" } });
  assert.match(run.stderr, /^error: .*\n.*\n\s+at /);
});
