// nibble push and pull, and names of the Hub where commands take folders, as processes against the registry's own Hub.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { startHub } from "../../services/adapter-registry/hub/test/support.ts";
import { nibble } from "../support/cli.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";

async function startWorld(t: TestContext) {
  const hub = await startHub(t);
  const home = temporaryFolder(t);
  const env = { HF_ENDPOINT: hub.hubUrl, HF_HOME: home, HF_HUB_OFFLINE: "0" };
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await nibble([...args, "--json"], { env });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };
  const fail = async (...args: string[]) => {
    const { code, stdout, stderr } = await nibble(args, { env });
    assert.deepEqual([code, stdout], [2, ""]);
    return stderr;
  };
  return { hub, home, run, fail };
}

test("push and pull: there and back, a second time nothing moves", async (t) => {
  const { run, home, hub } = await startWorld(t);
  const source = goldenPath("llama_untied_nf4_dq");
  const pushed = await run(
    "push",
    source,
    "org/model",
    "--license",
    "mit",
    "--metric",
    "loss=0.5",
    "--tag",
    "a",
    "--tag",
    "b",
  );
  assert.equal(pushed.url, `${hub.hubUrl}/org/model`);
  assert.equal(pushed.sent.length, readdirSync(source).length + 1, "the card as well");
  assert.deepEqual(
    (await run("push", source, "org/model", "--license", "mit", "--metric", "loss=0.5", "--tag", "a", "--tag", "b"))
      .sent,
    [],
  );
  const pulled = await run("pull", "org/model");
  assert.equal(pulled.sha, pushed.sha);
  assert.equal(pulled.folder, join(home, "hub", "models--org--model", "snapshots", pushed.sha));
  for (const name of readdirSync(source)) {
    assert.ok(readFileSync(join(pulled.folder, name)).equals(readFileSync(join(source, name))), name);
  }
  assert.match(readFileSync(join(pulled.folder, "README.md"), "utf8"), /^---\nlicense: mit\ntags:\n {2}- a\n {2}- b\n/);
  assert.equal((await run("pull", `org/model@${pushed.sha}`)).bytes_fetched, 0);
  assert.deepEqual((await run("pull", "org/model", "--include", "*.json", "--exclude", "tokenizer*")).files.sort(), [
    "config.json",
    "generation_config.json",
  ]);
});

test("a model and an adapter by name give the tokens of their folders; what is trained names the repository", async (t) => {
  const { run } = await startWorld(t);
  const [model, adapter] = [goldenPath("llama_untied_nf4_dq"), goldenPath("train", "qlora_adapter")];
  await run("push", model, "org/model");
  await run("push", adapter, "org/adapter", "--base-model", "org/model");
  const ask = ["--input-ids", "5,77,130,9,300,41", "--max-new-tokens", "6", "--ignore-eos", "--logits"];
  const byFolder = await run("generate", "--model", model, "--adapter", adapter, ...ask);
  const byName = await run("generate", "--model", "org/model", "--adapter", "org/adapter@main", ...ask);
  assert.deepEqual([byName.token_ids, byName.logits], [byFolder.token_ids, byFolder.logits]);
  const out = join(temporaryFolder(t), "adapter");
  const rows = goldenPath("..", "data", "dialogues.jsonl");
  await run(
    "train",
    "--model",
    "org/model",
    "--data",
    rows,
    "--out",
    out,
    "--steps",
    "1",
    "--max-length",
    "64",
    "--batch-size",
    "1",
  );
  const config = JSON.parse(readFileSync(join(out, "adapter_config.json"), "utf8"));
  assert.equal(config.base_model_name_or_path, "org/model");
});

test("a 16-bit model is quantized by name, and its card says where it is from", async (t) => {
  const { run } = await startWorld(t);
  await run("push", goldenPath("llama_untied"), "org/full");
  const out = join(temporaryFolder(t), "q");
  const byName = await run("quantize", "org/full@main", "--out", out);
  assert.match(readFileSync(join(out, "README.md"), "utf8"), /base_model: org\/full/);
  const other = join(temporaryFolder(t), "q");
  assert.equal((await run("quantize", goldenPath("llama_untied"), "--out", other)).digest, byName.digest);
});

test("what is wrong is said in one line", async (t) => {
  const { fail, home } = await startWorld(t);
  assert.match(
    await fail("pull", "org/none"),
    /^error: \[pull\] org\/none@main: expected a repository at \S+, found none/,
  );
  assert.match(await fail("pull", "../up"), /^error: \[pull\] \.\.\/up: expected org\/name or org\/name@revision\n/);
  assert.match(await fail("generate", "--model", "org/none", "--prompt", "x"), /\[pull\] org\/none@main/);
  for (const path of ["./none", "test/none"]) {
    // The folder "test" is here: what is below it is a path.
    assert.match(await fail("generate", "--model", path, "--prompt", "x"), /none: no config\.json/);
  }
  assert.match(
    await fail("push", goldenPath("train", "qlora_adapter"), "org/a"),
    /base_model: expected the base as org\/name/,
  );
  assert.match(await fail("push", goldenPath("llama_untied"), "org/a", "--metric", "loss"), /expected name=number/);
  assert.ok(!existsSync(join(home, "hub")));
});
