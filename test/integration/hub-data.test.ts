// A data set of a Hub by name: only the files of its split are pulled, once, and read from the shared cache.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { createRepo, uploadFiles } from "@huggingface/hub";
import { readDataset } from "../../packages/data/dataset.ts";
import { locateData } from "../../packages/data/locate.ts";
import { fetchFromHub } from "../../packages/data/sources/hub.ts";
import { blobOf, startHub } from "../../services/adapter-registry/hub/test/support.ts";
import { setEnvironment } from "../support/environment.ts";
import { temporaryFolder } from "../support/folders.ts";

test("org/name:split of a Hub, then from the cache alone", async (t) => {
  const hub = await startHub(t);
  const repo = { type: "dataset", name: "org/rows" } as const;
  await createRepo({ repo, ...hub.as });
  const file = (path: string, content: string) => ({ path, content: blobOf(content) });
  const files = [
    file("data/train-0.jsonl", '{"text": "a"}\n{"text": "b"}'),
    file("data/test-0.csv", "prompt,completion\na,b\n"),
    file("README.md", "rows"),
  ];
  await uploadFiles({ repo, files, ...hub.as });
  const home = temporaryFolder(t);
  setEnvironment(t, { HF_HOME: home, HF_ENDPOINT: hub.hubUrl, HF_HUB_OFFLINE: undefined });
  const { signal } = new AbortController();
  const train = await locateData("org/rows", fetchFromHub, signal);
  assert.ok(train.files.length === 1 && train.files[0]?.startsWith(join(home, "hub", "datasets--org--rows")));
  assert.equal((await readDataset(train.files[0] ?? "")).length, 2);
  process.env["HF_HUB_OFFLINE"] = "1";
  assert.deepEqual((await locateData("org/rows:train", fetchFromHub, signal)).files, train.files);
  // What was not asked for was not pulled.
  await assert.rejects(locateData("org/rows:test", fetchFromHub, signal), { code: "NOT_FOUND" });
  process.env["HF_HUB_OFFLINE"] = "0";
  const [rest] = (await locateData("org/rows:test", fetchFromHub, signal)).files;
  assert.equal((await readDataset(rest ?? ""))[0]?.row.kind, "completion");
});
