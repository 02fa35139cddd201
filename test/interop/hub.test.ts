// Python's huggingface_hub, transformers and PEFT with HF_ENDPOINT pointing at the registry, and nothing else changed.
// Runs where a Python with them is found (NIBBLE_PYTHON, else python3); elsewhere it says that it was skipped.
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { downloadFile } from "@huggingface/hub";
import {
  adapterWeightsFileName,
  hubSettings,
  openAdapterFolder,
  openModelFolder,
  openSafetensors,
  pullRepo,
  weightsFileName,
} from "#packages/hub";
import { binary, pathsOf, startHub, type TestHub } from "../../services/adapter-registry/hub/test/support.ts";
import { filesOf, put, sha256, smallAdapter } from "../../services/adapter-registry/test/support.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";
import { type PythonProcess, skipWithout, startPython } from "../support/python.ts";
import { startRoughProxy } from "../support/rough-proxy.ts";

const script = fileURLToPath(new URL("hub.py", import.meta.url));
const base = goldenPath("llama_untied_bf16_sharded");

interface Python {
  home: string;
  start(args: string[], env?: Record<string, string>): PythonProcess;
  run(args: string[], env?: Record<string, string>): Promise<Record<string, unknown>>;
}

/** With a cache of its own; `endpoint` is all that it is told. */
function pythonOf(t: TestContext, endpoint: string): Python {
  const home = temporaryFolder(t);
  const settings = { HF_ENDPOINT: endpoint, HF_HOME: home, HF_TOKEN: "hf_any" };
  const start = (args: string[], env = {}) => startPython([script, ...args], { ...settings, ...env });
  const run = async (args: string[], env = {}) => {
    const { code, stdout, stderr } = await start(args, env).ended;
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
  };
  return { home, start, run };
}

/** The clock has to be the client's: tokens of the upload end by it. */
const startNow = (t: TestContext) => startHub(t, { now: Date.now() });

function assertSameFolders(got: string, expected: string): void {
  assert.deepEqual(readdirSync(got).sort(), readdirSync(expected).sort());
  for (const name of readdirSync(expected)) {
    assert.ok(readFileSync(join(got, name)).equals(readFileSync(join(expected, name))), name);
  }
}

/** The repository is the folder, bit for bit, as JavaScript's client reads it. */
async function assertHolds(hub: TestHub, repo: string, folder: string, without = ""): Promise<void> {
  for (const name of readdirSync(folder).filter((one) => one !== without)) {
    const blob = await downloadFile({ ...hub.as, repo, path: name });
    assert.ok(blob && Buffer.from(await blob.arrayBuffer()).equals(readFileSync(join(folder, name))), name);
  }
}

describe("huggingface_hub", { skip: skipWithout("huggingface_hub") }, () => {
  for (const [name, env] of [
    ["as it is installed", {}],
    ["without xet", { HF_HUB_DISABLE_XET: "1" }],
  ] as const) {
    test(`upload_folder and snapshot_download ${name}: the folder comes back bit for bit`, async (t) => {
      const hub = await startNow(t);
      const python = pythonOf(t, hub.hubUrl);
      const { sha } = await python.run(["upload", "org/model", base], env);
      assert.equal((await python.run(["upload", "org/model", base], env))["sha"], sha, "a second time: no new commit");
      const { folder } = await python.run(["snapshot", "org/model"], env);
      assert.equal(folder, join(python.home, "hub", "models--org--model", "snapshots", String(sha)));
      assertSameFolders(String(folder), base);
    });
  }

  test("one cache for both: what Python pulled is there for us, what we pulled is there for Python, offline as well", async (t) => {
    const hub = await startNow(t);
    const python = pythonOf(t, hub.hubUrl);
    await python.run(["upload", "org/theirs", base]);
    await python.run(["upload", "org/ours", base]);
    const settings = hubSettings({ HF_HOME: python.home, HF_ENDPOINT: hub.hubUrl });
    const { folder: theirs } = await python.run(["snapshot", "org/theirs"]);
    const found = await pullRepo("org/theirs", { settings });
    assert.deepEqual([found.folder, found.bytesFetched], [theirs, 0]);
    const { folder: ours } = await pullRepo("org/ours", { settings });
    await hub.stop();
    const offline = { HF_HUB_OFFLINE: "1" };
    assert.equal((await python.run(["snapshot", "org/ours"], offline))["folder"], ours);
    assertSameFolders(ours, base);
    const again = await pullRepo("org/theirs", { settings: { ...settings, isOffline: true } });
    assert.equal(again.folder, theirs);
  });

  test("a download whose connections are cut goes on where it was", async (t) => {
    const hub = await startNow(t);
    const source = temporaryFolder(t);
    writeFileSync(join(source, "model.safetensors"), binary(32 << 20));
    await pythonOf(t, hub.hubUrl).run(["upload", "org/model", source]);
    const proxy = await startRoughProxy(t, hub.hubUrl, { after: 14 << 20, what: "cut", times: 2 });
    const python = pythonOf(t, proxy.url);
    const { folder } = await python.run(["snapshot", "org/model"]);
    assert.equal(proxy.count, 2);
    // It writes pieces of 10 MB, so it asks again from 10 and from 20; from the beginning it would be 60 MB.
    assert.ok(proxy.bytesDown < 48 << 20, `${proxy.bytesDown} bytes: not from the beginning each time`);
    assertSameFolders(String(folder), source);
  });

  test("a killed download: the next one has what was whole and fetches the rest", async (t) => {
    const hub = await startNow(t);
    const source = temporaryFolder(t);
    for (const name of ["a", "b"]) writeFileSync(join(source, `${name}.safetensors`), binary(2 << 20));
    writeFileSync(join(source, "c.safetensors"), binary(6 << 20));
    await pythonOf(t, hub.hubUrl).run(["upload", "org/model", source]);
    const proxy = await startRoughProxy(t, hub.hubUrl, { after: 3 << 20, what: "silence" });
    const python = pythonOf(t, proxy.url);
    const broken = python.start(["snapshot", "org/model"]);
    await proxy.happened();
    broken.kill();
    assert.equal((await broken.ended).code, null);
    proxy.set(null);
    const { folder } = await python.run(["snapshot", "org/model"]);
    assertSameFolders(String(folder), source);
  });

  for (const [name, env] of [
    ["as it is installed", {}],
    ["without xet", { HF_HUB_DISABLE_XET: "1" }],
  ] as const) {
    test(`a killed upload ${name}: nothing is there; the next one makes all of it`, async (t) => {
      const hub = await startNow(t);
      const source = temporaryFolder(t);
      writeFileSync(join(source, "model.safetensors"), binary(6 << 20));
      writeFileSync(join(source, "config.json"), "{}");
      const proxy = await startRoughProxy(t, hub.hubUrl, { after: 3 << 20, what: "silence", direction: "up" });
      const python = pythonOf(t, proxy.url);
      const broken = python.start(["upload", "org/model", source], env);
      await proxy.happened();
      broken.kill();
      await broken.ended;
      assert.ok(!(await pathsOf(hub, "org/model")).includes("model.safetensors"));
      proxy.set(null);
      await python.run(["upload", "org/model", source], env);
      await assertHolds(hub, "org/model", source);
    });
  }
});

const libraries = skipWithout("torch", "transformers", "peft", "bitsandbytes", "huggingface_hub");

describe("transformers, PEFT and bitsandbytes", { skip: libraries }, () => {
  test("from_pretrained by name: a base, a pushed adapter, and a registered one by version and by alias", async (t) => {
    const hub = await startNow(t);
    const python = pythonOf(t, hub.hubUrl);
    await python.run(["upload", "org/base", goldenPath("llama_untied")]);
    await python.run(["upload", "org/adapter", smallAdapter]);
    await put(hub.client, filesOf(smallAdapter));
    await hub.client.setAlias({ name: "adapters/a/aliases/live", version: "adapters/a/versions/1" });
    const names = ["org/adapter", "adapters/a", "adapters/a@v1", "adapters/a@live"];
    const { logits, vocabulary } = await python.run(["load", "org/base", ...names]);
    const [alone, pushed, ...registered] = logits as number[][];
    assert.ok(alone?.every(Number.isFinite));
    assert.notDeepEqual(pushed, alone, "the adapter does something");
    assert.deepEqual(registered, [pushed, pushed, pushed]);
    assert.ok(Number(vocabulary) > 0);
  });

  test("push_to_hub of each: what it saves to a folder is what is read back, bit for bit", async (t) => {
    const hub = await startNow(t);
    const out = temporaryFolder(t);
    const { tensors } = await pythonOf(t, hub.hubUrl).run(["publish", "org/pushed", base, smallAdapter, out]);
    for (const [repo, name, open] of [
      ["org/pushed", "model", openModelFolder],
      ["org/pushed-quantized", "quantized", openModelFolder],
      ["org/pushed-adapter", "adapter", openAdapterFolder],
    ] as const) {
      const folder = join(out, name);
      // push_to_hub writes the card anew.
      await assertHolds(hub, repo, folder, "README.md");
      open(folder).close();
      using file = openSafetensors(join(folder, name === "adapter" ? adapterWeightsFileName : weightsFileName));
      const got = Array.from(file.tensors.keys(), (key) => [key, sha256(file.read(key))]);
      assert.deepEqual(Object.fromEntries(got), (tensors as Record<string, object>)[name], name);
    }
  });
});

test("datasets: rows of a repository are loaded, and pushed as another one", {
  skip: skipWithout("datasets"),
}, async (t) => {
  const hub = await startNow(t);
  const folder = temporaryFolder(t);
  const rows = Array.from({ length: 50 }, (_, i) => ({ prompt: `p${i}`, completion: `c${i}` }));
  writeFileSync(join(folder, "train.jsonl"), rows.map((row) => JSON.stringify(row)).join("\n"));
  const got = await pythonOf(t, hub.hubUrl).run(["rows", "org/rows", folder]);
  assert.deepEqual(got, { rows, pushed: rows });
});
