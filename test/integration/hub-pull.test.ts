// Pulling from a Hub: the registry's own, with a server in front of it that fails as servers and networks do.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { createRepo, uploadFiles } from "@huggingface/hub";
import type { NibbleError } from "#packages/errors";
import { type HubSettings, hubSettings, type PulledRepo, type PullOptions, pullRepo, repoNameOf } from "#packages/hub";
import {
  binary,
  blobOf,
  push,
  startHub,
  type TestHub,
  token,
} from "../../services/adapter-registry/hub/test/support.ts";
import { failure } from "../../services/adapter-registry/test/support.ts";
import { temporaryFolder } from "../support/folders.ts";
import { type HttpFront, startFront } from "../support/http-front.ts";
import { startRoughProxy } from "../support/rough-proxy.ts";

const weights = binary(3 << 20);
const files = [
  { path: "config.json", content: '{"model_type":"llama"}\n' },
  { path: "model.safetensors", content: weights },
  { path: "sub/deep/notes.txt", content: "notes\n" },
  { path: "empty.txt", content: "" },
];

interface World {
  hub: TestHub;
  front: HttpFront;
  sha: string;
  settings: HubSettings;
  pull(options?: PullOptions): Promise<PulledRepo>;
}

const quick = { waitMsFirst: 5, attemptsMax: 4 };

async function startWorld(t: TestContext, { hubToken = "" } = {}): Promise<World> {
  const hub = await startHub(t, { config: { hubToken } });
  const sha = await push(hub, "org/model", files);
  const front = await startFront(t, hub.hubUrl);
  const settings = hubSettings({ HF_HOME: temporaryFolder(t), HF_ENDPOINT: front.url });
  const pull = (options: PullOptions = {}) => pullRepo("org/model", { settings, ...quick, ...options });
  return { hub, front, sha, settings, pull };
}

function assertWhole({ folder }: PulledRepo): void {
  for (const { path, content } of files) assert.ok(readFileSync(join(folder, path)).equals(Buffer.from(content)), path);
}

const bytesOf = (front: HttpFront, path: string) =>
  front.requests.filter((one) => one.startsWith("GET") && one.endsWith(path));

describe("pull", () => {
  test("the layout is the one that other tools use", async (t) => {
    const { pull, sha, settings } = await startWorld(t);
    const pulled = await pull();
    assertWhole(pulled);
    const repo = join(settings.cacheDir, "models--org--model");
    assert.equal(pulled.folder, join(repo, "snapshots", sha));
    assert.equal(readFileSync(join(repo, "refs", "main"), "utf8"), sha);
    const large = createHash("sha256").update(weights).digest("hex");
    assert.equal(readlinkSync(join(pulled.folder, "model.safetensors")), join("..", "..", "blobs", large));
    const note = createHash("sha1").update("blob 6\0notes\n").digest("hex");
    assert.equal(readlinkSync(join(pulled.folder, "sub/deep/notes.txt")), join("..", "..", "..", "..", "blobs", note));
    assert.deepEqual(
      readdirSync(join(repo, "blobs")).filter((name) => !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(name)),
      [],
    );
  });

  test("a second pull fetches nothing, one of another branch only what differs", async (t) => {
    const { pull, front, hub } = await startWorld(t);
    const first = await pull();
    assert.ok(first.bytesFetched > weights.length);
    front.requests.length = 0;
    assert.equal((await pull()).bytesFetched, 0);
    assert.deepEqual(bytesOf(front, "model.safetensors"), []);
    await push(hub, "org/model", [{ path: "config.json", content: "{}" }]);
    const next = await pull();
    assert.equal(next.bytesFetched, 2);
    assert.equal(readFileSync(join(next.folder, "config.json"), "utf8"), "{}");
    assertWhole(first);
  });

  test("a branch that moves between listing and fetching: all files are of the commit that was listed", async (t) => {
    const { pull, front, hub, sha } = await startWorld(t);
    let isMoved = false;
    front.intercept = async ({ url = "" }) => {
      if (!isMoved && url.includes("/resolve/")) {
        isMoved = true;
        await push(
          hub,
          "org/model",
          files.map(({ path }) => ({ path, content: `other ${path}` })),
        );
      }
      return false;
    };
    const pulled = await pull();
    assert.ok(isMoved);
    assert.equal(pulled.sha, sha);
    assertWhole(pulled);
    // A server that answers with another commit's file is not believed.
    front.intercept = ({ url = "" }, answer) => {
      if (!url.includes("/resolve/")) return false;
      answer.writeHead(200, { "x-repo-commit": "f".repeat(40) }).end("other model.safetensors");
      return true;
    };
    const { message } = await failure(pull());
    assert.match(message, /expected it from commit [0-9a-f]{40}, got it from f{40}/);
  });

  test("429 and 5xx are waited out as the server asks; one that never ends is an error", async (t) => {
    const { pull, front } = await startWorld(t);
    const statuses = [429, 503, 500];
    front.intercept = ({ url = "" }, answer) => {
      if (!url.includes("/resolve/")) return false;
      const status = statuses.shift();
      if (status === undefined) return false;
      answer.writeHead(status, status === 429 ? { "retry-after": "0" } : {}).end();
      return true;
    };
    const pulled = await pull({ parallel: 1 });
    assertWhole(pulled);
    assert.deepEqual(statuses, []);
    rmSync(join(pulled.folder, "..", ".."), { recursive: true });
    front.intercept = ({ url = "" }, answer) => {
      if (!url.includes("/tree/")) return false;
      answer.writeHead(503).end("maintenance");
      return true;
    };
    const { code, message } = await failure(pull());
    assert.equal(code, "UNAVAILABLE");
    assert.match(message, /org\/model@main: http:\S+ answered 503/);
    assert.equal(front.requests.filter((one) => one.includes("/tree/")).length, 1 + quick.attemptsMax);
    front.intercept = (_, answer) => {
      answer.writeHead(429, { "retry-after": "86400" }).end();
      return true;
    };
    assert.match((await failure(pull())).message, /answered 429/, "a day is not waited");
  });

  test("a listing that is cut is asked for again", async (t) => {
    const { pull, front } = await startWorld(t);
    let cuts = 2;
    front.intercept = ({ url = "" }, answer) => {
      if (!/tree|revision/.test(url) || cuts === 0) return false;
      cuts--;
      answer.writeHead(200, { "content-type": "application/json", "content-length": "1000" });
      answer.write('[{"type":"file",');
      setTimeout(() => answer.destroy(), 10);
      return true;
    };
    assertWhole(await pull());
    assert.equal(cuts, 0);
  });

  test("connections that are cut or go silent in the middle of a file: it goes on where it was", async (t) => {
    const { hub, settings } = await startWorld(t);
    for (const what of ["cut", "silence"] as const) {
      const proxy = await startRoughProxy(t, hub.hubUrl, { after: 1 << 20, what, times: 2 });
      const pulled = await pullRepo("org/model", {
        settings: { ...settings, endpoint: proxy.url, cacheDir: temporaryFolder(t) },
        ...quick,
        idleMsMax: 300,
        parallel: 1,
      });
      assertWhole(pulled);
      assert.equal(proxy.count, 2, what);
      assert.ok(proxy.bytesDown < 2 * weights.length, `${what}: ${proxy.bytesDown} bytes`);
    }
  });

  test("a killed pull: the next one goes on with what had come", async (t) => {
    const { hub, settings } = await startWorld(t);
    const proxy = await startRoughProxy(t, hub.hubUrl, { after: 2 << 20, what: "silence" });
    const script = fileURLToPath(new URL("../support/pull.ts", import.meta.url));
    const env = { ...process.env, HF_ENDPOINT: proxy.url, HF_HUB_CACHE: settings.cacheDir };
    const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", script, "org/model"], { env });
    await proxy.happened();
    const blobs = join(settings.cacheDir, "models--org--model", "blobs");
    const partial = () => readdirSync(blobs).find((name) => name.endsWith(".incomplete"));
    while ((statSync(join(blobs, partial() ?? ""), { throwIfNoEntry: false })?.size ?? 0) < 1 << 20) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    child.kill("SIGKILL");
    await once(child, "exit");
    const left = statSync(join(blobs, partial() ?? "")).size;
    proxy.set(null);
    const pulled = await pullRepo("org/model", { settings: { ...settings, endpoint: proxy.url }, ...quick });
    assertWhole(pulled);
    assert.ok(pulled.bytesFetched <= weights.length + 40, `${pulled.bytesFetched} bytes`);
    assert.ok(proxy.bytesDown < 2 * weights.length + (1 << 20) - left / 2, "not from the beginning");
    assert.equal(partial(), undefined);
  });

  test("damaged bytes: an old part is thrown away and fetched anew; a Hub that sends them is refused", async (t) => {
    const { pull, front, settings } = await startWorld(t);
    const blobs = join(settings.cacheDir, "models--org--model", "blobs");
    mkdirSync(blobs, { recursive: true });
    const large = createHash("sha256").update(weights).digest("hex");
    writeFileSync(join(blobs, `${large}.nibble.incomplete`), Buffer.alloc(1 << 20, 1));
    const pulled = await pull();
    assertWhole(pulled);
    rmSync(join(blobs, large));
    front.intercept = ({ url = "" }, answer) => {
      if (!url.endsWith("model.safetensors")) return false;
      answer.writeHead(200, { "content-length": String(weights.length) }).end(Buffer.alloc(weights.length, 2));
      return true;
    };
    const error = await failure(pull());
    assert.equal(error.code, "DATA_LOSS");
    assert.match(error.message, /model\.safetensors: expected content of id [0-9a-f]{64}, got other bytes, twice/);
    assert.ok(!existsSync(join(blobs, large)));
    front.intercept = () => false;
    assertWhole(await pull());
    // A small file as well, which is fetched in one piece: once wrong is made up for, twice is not.
    let wrong = 1;
    front.intercept = ({ url = "" }, answer) => {
      if (!url.endsWith("notes.txt") || wrong === 0) return false;
      wrong--;
      answer.writeHead(200).end("NOTES\n");
      return true;
    };
    const again = async () => {
      rmSync(join(settings.cacheDir, "models--org--model", "blobs"), { recursive: true });
      return pull();
    };
    assertWhole(await again());
    wrong = 2;
    assert.match(
      (await failure(again())).message,
      /notes\.txt: expected content of id [0-9a-f]{40}, got other bytes, twice/,
    );
  });

  test("a server that ignores ranges, and a blob that was cut: the files are whole all the same", async (t) => {
    const { pull, front, settings } = await startWorld(t);
    const pulled = await pull();
    const large = createHash("sha256").update(weights).digest("hex");
    const blob = join(settings.cacheDir, "models--org--model", "blobs", large);
    writeFileSync(blob, weights.subarray(0, 1000));
    writeFileSync(`${blob}.nibble.incomplete`, weights.subarray(0, 5000));
    front.intercept = (incoming) => {
      delete incoming.headers.range;
      return false;
    };
    assert.ok((await pull()).bytesFetched >= weights.length - 5000);
    assertWhole(pulled);
  });

  test("a full disk: what came is kept, nothing is half there, and the next pull ends it", async (t) => {
    const { pull, settings } = await startWorld(t);
    let room = 1 << 20;
    const write: PullOptions["write"] = async (handle, bytes, position) => {
      room -= bytes.length;
      if (room < 0) throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
      return (await handle.write(bytes, 0, bytes.length, position)).bytesWritten;
    };
    const { code, message } = await failure(pull({ write, parallel: 1 }));
    assert.equal(code, "RESOURCE_EXHAUSTED");
    assert.match(message, /the disk is full: expected room for \d+ bytes in the cache; what came is kept/);
    const repo = join(settings.cacheDir, "models--org--model");
    assert.ok(!existsSync(join(repo, "refs", "main")));
    const pulled = await pull();
    assertWhole(pulled);
    assert.ok(pulled.bytesFetched < weights.length + 100, "what came was kept");
  });

  test("listings with names that leave their folder are refused before anything is written", async (t) => {
    const { pull, front, settings } = await startWorld(t);
    const oid = "a".repeat(40);
    const entry = (path: string, more = {}) => ({ type: "file", path, size: 1, oid, ...more });
    for (const bad of [
      entry("../../../evil"),
      entry("/etc/cron.d/evil"),
      entry("a/../../b"),
      entry("a\\..\\b"),
      entry("C:/evil"),
      entry("ok", { oid: "../../../evil" }),
      entry("ok", { lfs: { oid: "../x", size: 1, pointerSize: 1 } }),
      entry("ok", { size: -1.5 }),
    ]) {
      front.intercept = ({ url = "" }, answer) => {
        if (!url.includes("/tree/")) return false;
        answer.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify([entry("fine"), bad]));
        return true;
      };
      const { code, message } = await failure(pull());
      assert.equal(code, "INVALID_ARGUMENT", bad.path);
      assert.match(message, /expected a relative path/);
      assert.ok(!existsSync(settings.cacheDir), "nothing was written");
    }
  });

  test("pickles are never fetched; weights that are only pickles are refused with what to do", async (t) => {
    const { pull, hub, settings } = await startWorld(t);
    await push(hub, "org/model", [{ path: "pytorch_model.bin", content: binary(100) }]);
    const pulled = await pull();
    assert.deepEqual(pulled.skipped, ["pytorch_model.bin"]);
    assert.ok(!existsSync(join(pulled.folder, "pytorch_model.bin")));
    await push(hub, "org/pickled", [
      { path: "config.json", content: "{}" },
      { path: "pytorch_model.bin", content: binary(100) },
    ]);
    const { code, message } = await failure(pullRepo("org/pickled", { settings, ...quick }));
    assert.equal(code, "FAILED_PRECONDITION");
    assert.match(message, /expected weights in safetensors, got pytorch_model\.bin: a pickle can run any code/);
    await createRepo({ ...hub.as, repo: "datasets/org/rows" });
    const rows = [
      { path: "rows.jsonl", content: blobOf('{"text":"a"}\n') },
      { path: "cache.pkl", content: blobOf("pickle") },
    ];
    await uploadFiles({ ...hub.as, repo: "datasets/org/rows", files: rows, useXet: false });
    const data = await pullRepo("org/rows", { settings, ...quick, type: "dataset" });
    assert.deepEqual([data.files, data.skipped], [["rows.jsonl"], ["cache.pkl"]]);
    assert.match(data.folder, /datasets--org--rows/);
  });

  test("unknown repositories and revisions, private and gated ones, wrong tokens", async (t) => {
    const { pull, hub, settings } = await startWorld(t, { hubToken: token });
    const errorOf = async (id: string, options: PullOptions = {}): Promise<NibbleError> =>
      failure(pullRepo(id, { settings, ...quick, ...options }));
    const mine = { settings: { ...settings, token } };
    const missing = (await errorOf("org/nope")).message;
    assert.match(missing, /org\/nope@main: expected a repository at \S+, found none; if it is private, set HF_TOKEN/);
    assert.ok(missing.endsWith(`or write it to ${settings.tokenFile}`), missing);
    assert.match((await errorOf("org/nope", mine)).message, /the token may not see it/);
    assert.match(
      (await errorOf("org/model", { revision: "nope" })).message,
      /org\/model@nope: expected a branch, a tag or a commit/,
    );
    assert.match(
      (await errorOf("org/model", { revision: "0".repeat(40) })).message,
      /expected a branch, a tag or a commit/,
    );
    const change = (body: object) =>
      fetch(`${hub.hubUrl}/api/models/org/model/settings`, {
        method: "PUT",
        headers: { authorization: `Bearer ${token}` },
        body: JSON.stringify(body),
      });
    await change({ gated: "manual" });
    const gated = await errorOf("org/model");
    assert.equal(gated.code, "PERMISSION_DENIED");
    assert.match(
      gated.message,
      /expected a token: the repository is gated; accept its conditions on its page, then set HF_TOKEN/,
    );
    assertWhole(await pull(mine));
    await change({ gated: false, visibility: "private" });
    assert.equal((await errorOf("org/model")).code, "NOT_FOUND");
    assertWhole(await pull(mine));
    const wrong = await errorOf("org/model", { settings: { ...settings, token: "hf_wrong" } });
    assert.equal(wrong.code, "UNAUTHENTICATED");
    assert.match(wrong.message, /expected a token that \S+ knows, got another one in HF_TOKEN or its file/);
  });

  test("the token is sent to the Hub and to nobody whom it redirects to", async (t) => {
    const { pull, front, hub, settings } = await startWorld(t);
    const elsewhere = await startFront(t, hub.hubUrl);
    const tokens: [string, string | undefined][] = [];
    elsewhere.intercept = ({ headers }) => {
      tokens.push(["elsewhere", headers.authorization]);
      return false;
    };
    front.intercept = ({ url = "", headers }, answer) => {
      tokens.push(["hub", headers.authorization]);
      if (!url.endsWith("model.safetensors")) return false;
      answer.writeHead(302, { location: `${elsewhere.url}${url}` }).end();
      return true;
    };
    assertWhole(await pull({ settings: { ...settings, token } }));
    const of = (who: string) => new Set(tokens.filter(([one]) => one === who).map(([, value]) => value));
    assert.deepEqual([...of("hub")], [`Bearer ${token}`]);
    assert.deepEqual([...of("elsewhere")], [undefined]);
  });

  test("offline: what is there by branch and by commit, and a clear word where it is not", async (t) => {
    const { pull, settings, sha, front, hub } = await startWorld(t);
    const offline = { settings: { ...settings, isOffline: true } };
    assert.match(
      (await failure(pull(offline))).message,
      /org\/model@main: expected it in \S+, as HF_HUB_OFFLINE forbids to ask/,
    );
    const { folder } = await pull();
    await hub.stop();
    front.requests.length = 0;
    assert.equal((await pull(offline)).folder, folder);
    assert.equal((await pull({ ...offline, revision: sha })).folder, folder);
    const large = createHash("sha256").update(weights).digest("hex");
    rmSync(join(settings.cacheDir, "models--org--model", "blobs", large));
    assert.match((await failure(pull(offline))).message, /expected 1 more files \(model\.safetensors, …\)/);
    assert.deepEqual(front.requests, []);
    const gone = await failure(pull());
    assert.equal(gone.code, "UNAVAILABLE");
    assert.match(
      gone.message,
      /expected an answer of \S+, got none: .*; HF_HUB_OFFLINE=1 takes what the cache has of it/,
    );
  });

  test("ten pulls of one repository at a time: each ends with all of it, each file comes once", async (t) => {
    const { settings, front } = await startWorld(t);
    const all = await Promise.all(Array.from({ length: 10 }, () => pullRepo("org/model", { settings, ...quick })));
    for (const pulled of all) assertWhole(pulled);
    assert.equal(bytesOf(front, "model.safetensors").length, 1);
  });

  test("include and exclude choose files; an abort ends it", async (t) => {
    const { pull, front } = await startWorld(t);
    const { files: some } = await pull({ include: ["*.json", "sub/**"], exclude: ["config.json"] });
    assert.deepEqual(some, ["sub/deep/notes.txt"]);
    const abort = new AbortController();
    front.intercept = ({ url = "" }) => {
      if (url.endsWith("model.safetensors")) abort.abort(new Error("enough"));
      return false;
    };
    await assert.rejects(pull({ signal: abort.signal }), /enough/);
  });
});

test("settings: the variables of Hugging Face's tools, in their order", (t) => {
  const home = temporaryFolder(t);
  writeFileSync(join(home, "token"), " hf_file\n");
  const of = (env: Record<string, string>) => hubSettings({ HF_HOME: home, NIBBLE_HOME: home, ...env });
  assert.deepEqual(of({}), {
    endpoint: "https://huggingface.co",
    token: "hf_file",
    tokenFile: join(home, "token"),
    cacheDir: join(home, "hub"),
    isOffline: false,
    own: null,
  });
  assert.equal(of({ HF_TOKEN: "hf_env" }).token, "hf_env");
  assert.equal(of({ HF_TOKEN_PATH: join(home, "none") }).token, null);
  assert.equal(of({ HF_HUB_CACHE: "/c", HUGGINGFACE_HUB_CACHE: "/old" }).cacheDir, "/c");
  assert.equal(of({ HF_ENDPOINT: "http://localhost:1/" }).endpoint, "http://localhost:1");
  assert.ok(of({ HF_HUB_OFFLINE: "1" }).isOffline && of({ TRANSFORMERS_OFFLINE: "yes" }).isOffline);
  assert.ok(!of({ HF_HUB_OFFLINE: "0" }).isOffline);
  assert.throws(() => of({ HF_ENDPOINT: "localhost:1" }), /HF_ENDPOINT: expected an address that begins with http/);
});

test("names of repositories, and what is none", () => {
  assert.deepEqual(repoNameOf("org/name"), { id: "org/name", revision: "main" });
  assert.deepEqual(repoNameOf("org/name@refs/pr/1"), { id: "org/name", revision: "refs/pr/1" });
  for (const text of [
    "name",
    "./a/b",
    "../a",
    "/abs/path",
    "a/b/c",
    "a--b/c",
    "org/name@",
    "org/..",
    "~/x",
    ".nibble/base",
  ]) {
    assert.equal(repoNameOf(text), undefined, text);
  }
});
