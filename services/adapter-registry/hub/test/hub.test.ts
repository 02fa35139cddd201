// The registry as a Hub: what @huggingface/hub writes and reads there, and what a plain HTTP client sees.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { dirname, join } from "node:path";
import { test } from "node:test";
import {
  commit,
  countCommits,
  createBranch,
  createRepo,
  deleteFiles,
  deleteRepo,
  downloadFile,
  listCommits,
  listFiles,
  listModels,
  modelInfo,
  pathsInfo,
  snapshotDownload,
  whoAmI,
} from "@huggingface/hub";
import { hubSettings, pullRepo } from "#packages/hub";
import { temporaryFolder } from "../../../../test/support/folders.ts";
import { filesOf, put, sha256, sizesUnder, smallAdapter } from "../../test/support.ts";
import { binary, blobOf, pathsOf, push, startHub, token } from "./support.ts";

const weights = binary(300_000);
const files = [
  { path: "config.json", content: '{"model_type":"llama"}\n' },
  { path: "README.md", content: "---\nbase_model: org/base\ntags: [lora]\nlicense: mit\n---\n# A model\n" },
  { path: "model.safetensors", content: weights },
  { path: "sub/deep/notes.txt", content: "notes\n" },
  { path: "empty.txt", content: "" },
];

async function bytesOf(blob: Blob | null): Promise<Buffer> {
  assert.ok(blob, "expected a file");
  return Buffer.from(await blob.arrayBuffer());
}

test("what was committed is listed and read back, by branch and by commit", async (t) => {
  const hub = await startHub(t);
  const sha = await push(hub, "org/model", files);
  assert.match(sha, /^[0-9a-f]{40}$/);
  assert.deepEqual(await pathsOf(hub, "org/model"), [
    "README.md",
    "config.json",
    "empty.txt",
    "model.safetensors",
    "sub",
    "sub/deep",
    "sub/deep/notes.txt",
  ]);
  for (const { path, content } of files) {
    for (const revision of ["main", sha]) {
      const got = await bytesOf(await downloadFile({ ...hub.as, repo: "org/model", path, revision }));
      assert.ok(got.equals(Buffer.from(content)), `${path} of ${revision}`);
    }
  }
  const info = await modelInfo({ ...hub.as, name: "org/model", additionalFields: ["sha", "cardData", "tags"] });
  assert.equal(info.sha, sha);
  assert.equal(info.cardData?.base_model, "org/base");
  assert.deepEqual(info.tags, ["lora", "base_model:org/base", "license:mit"]);
  assert.equal((await whoAmI(hub.as)).name, "nibble");
  const names: string[] = [];
  for await (const { name } of listModels({ ...hub.as, search: { owner: "org" } })) names.push(name);
  assert.deepEqual(names, ["org/model"]);
  for (const [tag, count] of [
    ["license:mit", 1],
    ["license:apache-2.0", 0],
  ] as const) {
    const tagged: string[] = [];
    for await (const { name } of listModels({ ...hub.as, search: { tags: [tag] } })) tagged.push(name);
    assert.equal(tagged.length, count, tag);
  }
});

test("snapshotDownload of @huggingface/hub fills the cache that is ours as well", async (t) => {
  const hub = await startHub(t);
  await push(hub, "org/model", files);
  const settings = hubSettings({ HF_HOME: temporaryFolder(t), HF_ENDPOINT: hub.hubUrl });
  t.mock.method(console, "debug", () => {});
  const folder = await snapshotDownload({ ...hub.as, repo: "org/model", cacheDir: settings.cacheDir });
  for (const { path, content } of files) {
    assert.ok(readFileSync(join(folder, path)).equals(Buffer.from(content)), path);
  }
  const found = await pullRepo("org/model", { settings });
  assert.deepEqual([found.folder, found.bytesFetched], [folder, 0]);
});

test("ids are git's own: a clone with the same files has the same tree", async (t) => {
  const hub = await startHub(t);
  await push(hub, "org/model", files);
  const folder = temporaryFolder(t);
  const git = (...args: string[]) => execFileSync("git", args, { cwd: folder, encoding: "utf8" }).trim();
  git("init", "-q");
  for (const { path, content } of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${sha256(weights)}\nsize ${weights.length}\n`;
    writeFileSync(join(folder, path), path === "model.safetensors" ? pointer : content);
  }
  git("add", "-A");
  const expected = git("ls-tree", "-r", "-t", git("write-tree"));
  const got: string[] = [];
  for await (const { type, oid, path } of listFiles({ ...hub.as, repo: "org/model", recursive: true })) {
    got.push(type === "file" ? `100644 blob ${oid}\t${path}` : `040000 tree ${oid}\t${path}`);
  }
  assert.deepEqual(got, expected.split("\n"));
});

test("a file's headers are those that clients cache by; ranges, HEAD and a known ETag work", async (t) => {
  const hub = await startHub(t);
  const sha = await push(hub, "org/model", files);
  const url = `${hub.hubUrl}/org/model/resolve/main/model.safetensors`;
  const head = await fetch(url, { method: "HEAD" });
  assert.equal(head.status, 200);
  assert.equal(head.headers.get("x-repo-commit"), sha);
  assert.equal(head.headers.get("x-linked-etag"), `"${sha256(weights)}"`);
  assert.equal(head.headers.get("x-linked-size"), String(weights.length));
  assert.equal(head.headers.get("content-length"), String(weights.length));
  assert.equal(head.headers.get("x-xet-hash"), null);
  assert.equal((await head.arrayBuffer()).byteLength, 0);
  const ranged = async (range: string) => {
    const answer = await fetch(url, { headers: { range } });
    return {
      status: answer.status,
      span: answer.headers.get("content-range"),
      bytes: Buffer.from(await answer.arrayBuffer()),
    };
  };
  const size = weights.length;
  for (const [range, start, end] of [
    ["bytes=0-0", 0, 1],
    ["bytes=100-", 100, size],
    ["bytes=-7", size - 7, size],
    [`bytes=10-${size * 2}`, 10, size],
  ] as const) {
    const { status, span, bytes } = await ranged(range);
    assert.equal(status, 206, range);
    assert.equal(span, `bytes ${start}-${end - 1}/${size}`);
    assert.ok(bytes.equals(weights.subarray(start, end)), range);
  }
  const beyond = await ranged(`bytes=${size}-`);
  assert.equal(beyond.status, 416);
  assert.equal(beyond.span, `bytes */${size}`);
  const known = await fetch(url, { headers: { "if-none-match": `"${sha256(weights)}"` } });
  assert.equal(known.status, 304);
});

test("pages of a listing cover everything once", async (t) => {
  const hub = await startHub(t);
  const many = Array.from({ length: 120 }, (_, i) => ({
    path: `f${String(i).padStart(3, "0")}.txt`,
    content: String(i),
  }));
  await push(hub, "org/many", many);
  const got: string[] = [];
  // With `expand`, 50 a page.
  for await (const { path, lastCommit } of listFiles({ ...hub.as, repo: "org/many", expand: true })) {
    assert.ok(lastCommit);
    got.push(path);
  }
  assert.deepEqual(
    got,
    many.map(({ path }) => path),
  );
  const names: string[] = [];
  for (const name of ["a", "b", "c"]) await push(hub, `org/${name}`, [{ path: "x", content: name }]);
  let next: string | undefined = `${hub.hubUrl}/api/models?limit=2`;
  while (next) {
    const answer: Response = await fetch(next);
    names.push(...((await answer.json()) as { id: string }[]).map(({ id }) => id));
    next = /<([^>]+)>/.exec(answer.headers.get("link") ?? "")?.[1];
  }
  assert.deepEqual(names, ["org/a", "org/b", "org/c", "org/many"]);
});

test("history: each commit stays as it was, a file knows its last one, deletions are commits", async (t) => {
  const hub = await startHub(t);
  const first = await push(hub, "org/model", files);
  const second = await push(hub, "org/model", [{ path: "config.json", content: "{}" }]);
  await deleteFiles({ ...hub.as, repo: "org/model", paths: ["empty.txt"] });
  assert.ok((await pathsOf(hub, "org/model", first)).includes("empty.txt"));
  assert.ok(!(await pathsOf(hub, "org/model")).includes("empty.txt"));
  const paths = ["config.json", "README.md"];
  const infos = await pathsInfo({ ...hub.as, repo: "org/model", paths, expand: true });
  const last = Object.fromEntries(infos.map(({ path, lastCommit }) => [path, lastCommit.id]));
  assert.deepEqual(last, { "config.json": second, "README.md": first });
  assert.equal(await countCommits({ ...hub.as, repo: "org/model" }), 4);
  const titles: string[] = [];
  for await (const { title } of listCommits({ ...hub.as, repo: "org/model", batchSize: 2 })) titles.push(title);
  assert.equal(titles.length, 4);
  assert.equal(titles.at(-1), "initial commit");
});

test("a commit that changes nothing is the present one; of two from one parent the later is refused", async (t) => {
  const hub = await startHub(t);
  const first = await push(hub, "org/model", files);
  assert.equal(await push(hub, "org/model", files), first);
  const from = (content: string) =>
    commit({
      ...hub.as,
      repo: "org/model",
      title: content,
      parentCommit: first,
      operations: [{ operation: "addOrUpdate", path: "a.txt", content: blobOf(content) }],
    });
  await from("one");
  await assert.rejects(from("two"), (error: { statusCode: number; message: string }) => {
    assert.equal(error.statusCode, 412);
    assert.match(error.message, /expected it to be at [0-9a-f]{40}, got [0-9a-f]{40}: a commit has happened since/);
    return true;
  });
  assert.equal((await bytesOf(await downloadFile({ ...hub.as, repo: "org/model", path: "a.txt" }))).toString(), "one");
});

test("branches and tags point at commits; main stays", async (t) => {
  const hub = await startHub(t);
  const sha = await push(hub, "org/model", files);
  await createBranch({ ...hub.as, repo: "org/model", branch: "exp/one" });
  await push(hub, "org/model", [{ path: "b.txt", content: "b" }]);
  const call = (method: string, path: string, body = {}) =>
    fetch(`${hub.hubUrl}/api/models/org/model/${path}`, { method, body: JSON.stringify(body) });
  assert.equal((await call("POST", `tag/${sha}`, { tag: "v1" })).status, 200);
  assert.equal((await call("POST", "tag/main", { tag: "v1" })).status, 409);
  const refs = (await (await fetch(`${hub.hubUrl}/api/models/org/model/refs`)).json()) as {
    tags: { name: string; targetCommit: string }[];
  };
  assert.deepEqual(
    refs.tags.map(({ name, targetCommit }) => [name, targetCommit]),
    [["v1", sha]],
  );
  for (const revision of ["exp/one", "v1", "refs/tags/v1"]) {
    assert.ok(!(await pathsOf(hub, "org/model", encodeURIComponent(revision))).includes("b.txt"), revision);
  }
  assert.equal((await call("DELETE", "branch/exp%2Fone")).status, 200);
  assert.equal((await call("DELETE", "branch/main")).status, 400);
  assert.equal((await call("DELETE", "tag/nope")).status, 404);
});

test("what is not there says so in the codes that clients know", async (t) => {
  const hub = await startHub(t);
  const sha = await push(hub, "org/model", files);
  const code = async (path: string) => {
    const answer = await fetch(`${hub.hubUrl}/${path}`, { method: "HEAD" });
    return [answer.status, answer.headers.get("x-error-code"), answer.headers.get("x-repo-commit")];
  };
  assert.deepEqual(await code("org/nope/resolve/main/config.json"), [404, "RepoNotFound", null]);
  assert.deepEqual(await code("org/model/resolve/nope/config.json"), [404, "RevisionNotFound", null]);
  assert.deepEqual(await code(`org/model/resolve/${"0".repeat(40)}/config.json`), [404, "RevisionNotFound", null]);
  assert.deepEqual(await code("org/model/resolve/main/nope.json"), [404, "EntryNotFound", sha]);
  assert.deepEqual(await code("gpt2/resolve/main/config.json"), [404, "RepoNotFound", null]);
});

test("with a token: private and gated repositories, wrong tokens, and nobody else writes", async (t) => {
  const hub = await startHub(t, { config: { hubToken: token } });
  await push(hub, "org/open", files);
  await push(hub, "org/gated", files);
  await createRepo({ ...hub.as, repo: "org/private", visibility: "private" });
  const bearer = (value: string) => ({ authorization: `Bearer ${value}` });
  const settings = { method: "PUT", headers: bearer(token), body: '{"gated":"manual"}' };
  assert.equal((await fetch(`${hub.hubUrl}/api/models/org/gated/settings`, settings)).status, 200);
  const ask = async (path: string, headers = {}) => {
    const answer = await fetch(`${hub.hubUrl}/${path}`, { headers });
    return [answer.status, answer.headers.get("x-error-code")];
  };
  assert.deepEqual(await ask("org/open/resolve/main/config.json"), [200, null]);
  assert.deepEqual(await ask("api/models/org/gated"), [200, null]);
  assert.deepEqual(await ask("org/gated/resolve/main/config.json"), [401, "GatedRepo"]);
  assert.deepEqual(await ask("org/gated/resolve/main/config.json", bearer(token)), [200, null]);
  assert.deepEqual(await ask("api/models/org/private"), [401, "RepoNotFound"]);
  assert.deepEqual(await ask("api/models/org/private", bearer(token)), [200, null]);
  const listed = (await (await fetch(`${hub.hubUrl}/api/models`)).json()) as { id: string }[];
  assert.deepEqual(
    listed.map(({ id }) => id),
    ["org/gated", "org/open"],
  );
  const wrong = await fetch(`${hub.hubUrl}/api/models/org/open`, { headers: bearer("hf_wrong") });
  assert.equal(wrong.status, 401);
  assert.equal(wrong.headers.get("x-error-message"), "Invalid credentials in Authorization header");
  const write = { method: "POST", body: JSON.stringify({ name: "x", organization: "org" }) };
  assert.equal((await fetch(`${hub.hubUrl}/api/repos/create`, write)).status, 401);
  assert.equal((await fetch(`${hub.hubUrl}/api/whoami-v2`)).status, 401);
});

test("pages of other sites are refused, and other names for this machine where no token is needed", async (t) => {
  const ask = async (url: string, headers: Record<string, string>) => {
    const answered = Promise.withResolvers<number | undefined>();
    // fetch sets Host by itself.
    get(`${url}/api/models`, { headers }, (answer) => answered.resolve(answer.resume().statusCode)).on(
      "error",
      answered.reject,
    );
    return answered.promise;
  };
  const { hubUrl } = await startHub(t);
  const { host } = new URL(hubUrl);
  assert.equal(await ask(hubUrl, {}), 200);
  assert.equal(await ask(hubUrl, { origin: hubUrl }), 200);
  assert.equal(await ask(hubUrl, { origin: "https://evil.example" }), 403);
  assert.equal(await ask(hubUrl, { origin: "null" }), 403);
  assert.equal(await ask(hubUrl, { host: `localhost:${new URL(hubUrl).port}` }), 200);
  assert.equal(await ask(hubUrl, { host: `evil.example:${new URL(hubUrl).port}` }), 403);
  const guarded = await startHub(t, { config: { hubToken: token } });
  assert.equal(await ask(guarded.hubUrl, { host: "hub.example" }), 200);
  assert.equal(await ask(guarded.hubUrl, { host, origin: "https://evil.example" }), 403);
});

test("bad names, paths and bodies are refused and leave nothing", async (t) => {
  const hub = await startHub(t);
  const sha = await push(hub, "org/model", files);
  const stored = sizesUnder(join(hub.dir, "blobs"));
  const post = (path: string, body: string) => fetch(`${hub.hubUrl}/api/${path}`, { method: "POST", body });
  for (const name of ["..", "a--b", "a/b", "x.git", "-a", ""]) {
    const answer = await post("repos/create", JSON.stringify({ name, organization: "org" }));
    assert.equal(answer.status, 400, name);
  }
  const line = (key: string, value: object) => `${JSON.stringify({ key, value })}\n`;
  const header = line("header", { summary: "s" });
  const file = (path: string, content = "eA==") => line("file", { path, content, encoding: "base64" });
  const oid = "a".repeat(64);
  const bodies: [string, RegExp][] = [
    [file("a"), /expected a line of key "header"/],
    [header + file("../up"), /expected a relative path/],
    [header + file("/etc/passwd"), /expected a relative path/],
    [header + file("config.json/x"), /not to lie in config\.json/],
    [
      header + line("lfsFile", { path: "m", oid, size: 3 }),
      /expected the bytes of sha256 a+ to be uploaded before, got none/,
    ],
    [header + line("deletedFile", { path: "nope" }), /Entry not found/],
    [header + line("rename", { path: "a" }), /key: expected header, file/],
    [`${header}not json\n`, /expected JSON/],
    [header + file("big", Buffer.alloc(11 << 20).toString("base64")), /upload it as a large file/],
  ];
  for (const [body, message] of bodies) {
    const answer = await post("models/org/model/commit/main", body);
    assert.ok(answer.status === 400 || answer.status === 404, String(message));
    assert.match(((await answer.json()) as { error: string }).error, message);
  }
  assert.equal((await post("models/org/model/commit/nope", header + file("a"))).status, 404);
  assert.equal((await post("models/org/model/commit/main?create_pr=1", header + file("a"))).status, 400);
  assert.equal((await modelInfo({ ...hub.as, name: "org/model", additionalFields: ["sha"] })).sha, sha);
  assert.deepEqual(sizesUnder(join(hub.dir, "blobs")), stored);
  assert.deepEqual(sizesUnder(join(hub.dir, "uploads")), {});
});

test("a registered adapter is a repository: its versions by tag, its aliases as branches, read only", async (t) => {
  const hub = await startHub(t);
  const adapter = filesOf(smallAdapter);
  await put(hub.client, adapter);
  await put(hub.client, adapter, { metadata: { second: "one" } });
  await hub.client.setAlias({ name: "adapters/a/aliases/live", version: "adapters/a/versions/1" });
  for (const revision of ["main", "live", "v1", "v2"]) {
    for (const { path, bytes } of adapter) {
      const got = await bytesOf(await downloadFile({ ...hub.as, repo: "adapters/a", path, revision }));
      assert.ok(got.equals(bytes), `${path} of ${revision}`);
    }
  }
  const shaOf = async (revision: string) =>
    (await modelInfo({ ...hub.as, name: "adapters/a", revision, additionalFields: ["sha"] })).sha;
  assert.equal(await shaOf("main"), await shaOf("v2"));
  assert.equal(await shaOf("live"), await shaOf("v1"));
  assert.notEqual(await shaOf("v1"), await shaOf("v2"));
  const kept = await shaOf("v2");
  await hub.client.deleteAlias({ name: "adapters/a/aliases/live" });
  await hub.client.deleteVersion({ name: "adapters/a/versions/1" });
  assert.equal(await shaOf("main"), kept);
  const write = {
    repo: "adapters/a",
    title: "x",
    operations: [{ operation: "addOrUpdate" as const, path: "x", content: blobOf("x") }],
  };
  await assert.rejects(commit({ ...hub.as, ...write }), /adapters\/… shows what is registered/);
  const names: string[] = [];
  await push(hub, "org/model", files);
  for await (const { name } of listModels(hub.as)) names.push(name);
  assert.deepEqual(names, ["adapters/a", "org/model"]);
});

test("blobs are shared with adapters and outlive a restart; what nobody names any more goes", async (t) => {
  const dir = join(temporaryFolder(t), "registry");
  const hub = await startHub(t, { dir });
  const adapter = filesOf(smallAdapter);
  await put(hub.client, adapter);
  await push(
    hub,
    "org/copy",
    adapter.map(({ path, bytes }) => ({ path, content: bytes })),
  );
  await hub.client.deleteVersion({ name: "adapters/a/versions/1" });
  await hub.stop();
  const again = await startHub(t, { dir });
  for (const { path, bytes } of adapter) {
    assert.ok((await bytesOf(await downloadFile({ ...again.as, repo: "org/copy", path }))).equals(bytes), path);
  }
  await deleteRepo({ ...again.as, repo: "org/copy" });
  await assert.rejects(modelInfo({ ...again.as, name: "org/copy" }), /Repository not found/);
});

test("a file that rotted on the disk is never handed out whole", async (t) => {
  const hub = await startHub(t);
  await push(hub, "org/model", files);
  const url = `${hub.hubUrl}/org/model/resolve/main/model.safetensors`;
  const name = sha256(weights);
  const path = join(hub.dir, "blobs", name.slice(0, 2), name);
  writeFileSync(path, Buffer.from(weights).fill(1, 5000, 5001));
  await assert.rejects(async () => (await fetch(url)).arrayBuffer());
  truncateSync(path, 100);
  await assert.rejects(async () => (await fetch(url)).arrayBuffer());
});
