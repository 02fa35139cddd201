// Pushing to a Hub: the registry's own, with servers in front of it that fail as servers and networks do.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, type TestContext, test } from "node:test";
import { countCommits, modelInfo } from "@huggingface/hub";
import { type HubSettings, hubSettings, type PushOptions, pullRepo, pushFolder } from "#packages/hub";
import { completedCard } from "../../packages/hub/remote/card.ts";
import {
  binary,
  pathsOf,
  push as pushFiles,
  startHub,
  type TestHub,
  token,
} from "../../services/adapter-registry/hub/test/support.ts";
import { failure, filesOf, put, smallAdapter } from "../../services/adapter-registry/test/support.ts";
import { copyOfGolden, temporaryFolder } from "../support/folders.ts";
import { type HttpFront, startFront } from "../support/http-front.ts";
import { startRoughProxy } from "../support/rough-proxy.ts";

const quick = { waitMsFirst: 5, attemptsMax: 4 };
const card = { baseModel: "org/base" };

interface World {
  hub: TestHub;
  front: HttpFront;
  settings: HubSettings;
  push(folder: string, options?: PushOptions): ReturnType<typeof pushFolder>;
}

async function startWorld(t: TestContext, { hubToken = "", as = null as string | null } = {}): Promise<World> {
  const hub = await startHub(t, { config: { hubToken } });
  const front = await startFront(t, hub.hubUrl);
  const settings = { ...hubSettings({ HF_HOME: temporaryFolder(t), HF_ENDPOINT: front.url }), token: as };
  const push = (folder: string, options: PushOptions = {}) =>
    pushFolder(folder, "org/pushed", { settings, card, ...quick, ...options });
  return { hub, front, settings, push };
}

function adapterFolder(t: TestContext): string {
  const folder = join(temporaryFolder(t), "adapter");
  cpSync(smallAdapter, folder, { recursive: true });
  return folder;
}

const uploads = (front: HttpFront) => front.requests.filter((one) => one.startsWith("PUT "));
const commits = (front: HttpFront) => front.requests.filter((one) => one.includes("/commit/"));

describe("push", () => {
  test("a model and an adapter come back bit for bit, with a card that says where they are from", async (t) => {
    const { hub, push, settings } = await startWorld(t);
    for (const source of [copyOfGolden(t, "llama_untied_nf4_dq"), adapterFolder(t)]) {
      const pushed = await push(source, {
        card: { ...card, license: "apache-2.0", datasets: ["org/rows"], tags: ["qlora"], metrics: { loss: 0.25 } },
      });
      assert.match(pushed.sha, /^[0-9a-f]{40}$/);
      const { folder, sha } = await pullRepo("org/pushed", { settings, ...quick });
      assert.equal(sha, pushed.sha);
      const written = new Set(["README.md", "adapter_config.json"]);
      for (const name of readdirSync(source).filter((one) => !written.has(one))) {
        assert.ok(readFileSync(join(folder, name)).equals(readFileSync(join(source, name))), name);
      }
    }
    const { cardData, tags } = await modelInfo({
      ...hub.as,
      name: "org/pushed",
      additionalFields: ["cardData", "tags"],
    });
    assert.equal(cardData?.base_model, "org/base");
    assert.equal(cardData?.license, "apache-2.0");
    assert.deepEqual(cardData?.datasets, ["org/rows"]);
    assert.deepEqual(cardData?.["model-index"]?.[0]?.results[0]?.metrics, [{ type: "loss", value: 0.25 }]);
    for (const tag of ["qlora", "base_model:org/base", "dataset:org/rows", "license:apache-2.0"])
      assert.ok(tags.includes(tag), tag);
  });

  test("an adapter's configuration names its base by a name, from wherever the name is known", async (t) => {
    const { push, settings } = await startWorld(t);
    const folder = adapterFolder(t);
    const config = join(folder, "adapter_config.json");
    const before = readFileSync(config, "utf8");
    const pushed = async (card: PushOptions["card"]) => {
      await push(folder, card ? { card } : { card: {} });
      const got = readFileSync(
        join((await pullRepo("org/pushed", { settings, ...quick })).folder, "adapter_config.json"),
        "utf8",
      );
      return got;
    };
    assert.equal(await pushed(card), before.replace('"llama_untied_nf4_dq"', '"org/base"'));
    const base = copyOfGolden(t, "llama_untied_nf4_dq");
    writeFileSync(join(base, "README.md"), "---\nbase_model: org/other\n---\n");
    writeFileSync(config, before.replace('"llama_untied_nf4_dq"', JSON.stringify(base)));
    assert.equal(await pushed({}), before.replace('"llama_untied_nf4_dq"', '"org/other"'));
    writeFileSync(config, before.replace('"llama_untied_nf4_dq"', '"org/third"'));
    assert.equal(await pushed({}), before.replace('"llama_untied_nf4_dq"', '"org/third"'));
  });

  test("pushed again: nothing is sent and nothing changes; of a change only what changed is sent", async (t) => {
    const { hub, front, push } = await startWorld(t);
    const folder = adapterFolder(t);
    const first = await push(folder);
    assert.equal(first.sent.length, 3);
    front.requests.length = 0;
    const again = await push(folder);
    assert.deepEqual([again.sha, again.sent, again.unchanged], [first.sha, [], 3]);
    assert.deepEqual([uploads(front), commits(front)], [[], []]);
    writeFileSync(join(folder, "metrics.jsonl"), "{}\n");
    const more = await push(folder);
    assert.deepEqual(more.sent, ["metrics.jsonl"]);
    assert.deepEqual(uploads(front), []);
    assert.equal(await countCommits({ ...hub.as, repo: "org/pushed" }), 3);
  });

  test("large files that the Hub has from elsewhere are not sent", async (t) => {
    const { hub, front, push } = await startWorld(t);
    await put(hub.client, filesOf(smallAdapter));
    await push(adapterFolder(t));
    assert.deepEqual(uploads(front), []);
  });

  test("429, 5xx and cut connections: each file is sent until it is there, the others once", async (t) => {
    const { hub, front, push } = await startWorld(t);
    const folder = copyOfGolden(t, "llama_untied_bf16_sharded");
    const failures = [503, 429];
    front.intercept = ({ method }, answer) => {
      const status = method === "PUT" ? failures.shift() : undefined;
      if (status === undefined) return false;
      answer.writeHead(status, status === 429 ? { "retry-after": "0" } : {}).end();
      return true;
    };
    await push(folder);
    assert.equal(uploads(front).length, 3 + 2);
    for (const name of readdirSync(folder)) assert.ok((await pathsOf(hub, "org/pushed")).includes(name), name);

    writeFileSync(join(folder, "extra.dat"), binary(4 << 20));
    const proxy = await startRoughProxy(t, hub.hubUrl, { after: 1 << 20, what: "cut", direction: "up", times: 2 });
    const settings = hubSettings({ HF_HOME: temporaryFolder(t), HF_ENDPOINT: proxy.url });
    const { sent } = await pushFolder(folder, "org/pushed", { settings, card, ...quick });
    assert.deepEqual(sent, ["extra.dat"]);
    assert.equal(proxy.count, 2);
  });

  test("a commit whose answer is lost is not made twice", async (t) => {
    const { hub, front, push } = await startWorld(t);
    let lost = 0;
    front.intercept = async (incoming, answer) => {
      if (!incoming.url?.includes("/commit/") || lost > 0) return false;
      lost++;
      const pieces: Buffer[] = [];
      for await (const piece of incoming) pieces.push(piece);
      const body = Buffer.concat(pieces);
      const made = await fetch(`${hub.hubUrl}${incoming.url}`, { method: "POST", body });
      assert.equal(made.status, 200);
      answer.destroy();
      return true;
    };
    const { sha } = await push(adapterFolder(t));
    assert.equal(lost, 1);
    assert.equal((await modelInfo({ ...hub.as, name: "org/pushed", additionalFields: ["sha"] })).sha, sha);
    assert.equal(await countCommits({ ...hub.as, repo: "org/pushed" }), 2);
  });

  test("somebody commits meanwhile: both commits stand", async (t) => {
    const { hub, front, push } = await startWorld(t);
    let isDone = false;
    front.intercept = async ({ url = "" }) => {
      if (!isDone && url.includes("/commit/")) {
        isDone = true;
        await pushFiles(hub, "org/pushed", [{ path: "theirs.txt", content: "theirs" }]);
      }
      return false;
    };
    await push(adapterFolder(t));
    const paths = await pathsOf(hub, "org/pushed");
    assert.ok(paths.includes("theirs.txt") && paths.includes("adapter_model.safetensors"));
  });

  test("without a token, with a wrong one, offline: nothing is sent", async (t) => {
    const folder = adapterFolder(t);
    const anonymous = await startWorld(t, { hubToken: token });
    assert.match(
      (await failure(anonymous.push(folder))).message,
      /org\/pushed: expected a token to push with; set HF_TOKEN/,
    );
    const wrong = await startWorld(t, { hubToken: token, as: "hf_wrong" });
    assert.equal((await failure(wrong.push(folder))).code, "UNAUTHENTICATED");
    // Any token, not only those that begin as the public Hub's do.
    const right = await startWorld(t, { hubToken: "secret", as: "secret" });
    await right.push(folder);
    const offline = { settings: { ...right.settings, isOffline: true } };
    assert.equal((await failure(right.push(folder, offline))).code, "FAILED_PRECONDITION");
  });

  test("a disk that is full at the Hub, a folder that is not whole, a base that nobody finds, pickles", async (t) => {
    const { hub, push } = await startWorld(t);
    const folder = adapterFolder(t);
    const full = await startHub(t, { config: { freeBytesMin: Number.MAX_SAFE_INTEGER } });
    const settings = hubSettings({ HF_HOME: temporaryFolder(t), HF_ENDPOINT: full.hubUrl });
    const error = await failure(pushFolder(folder, "org/pushed", { settings, card, ...quick }));
    assert.equal(error.code, "RESOURCE_EXHAUSTED");
    assert.match(
      (await failure(push(folder, { card: {} }))).message,
      /expected the base as org\/name, got llama_untied_nf4_dq/,
    );
    writeFileSync(join(folder, "optimizer.pt"), "pickle");
    mkdirSync(join(folder, ".git"));
    writeFileSync(join(folder, ".git", "config"), "secret");
    assert.deepEqual((await push(folder)).skipped, ["optimizer.pt"]);
    assert.deepEqual(
      (await pathsOf(hub, "org/pushed")).filter((path) => /git|optimizer/.test(path)),
      [],
    );
    rmSync(join(folder, "adapter_model.safetensors"));
    assert.match((await failure(push(folder))).message, /adapter_model\.safetensors/);
    assert.match((await failure(push(temporaryFolder(t)))).message, /no config\.json; expected a model folder/);
  });
});

test("a card is completed, not replaced, and left as it is where nothing is to be added", () => {
  const readme = "---\ntags:\n- lora\nlicense: mit\n---\n\n# Mine\n";
  assert.equal(completedCard(readme, "m", { tags: ["lora"] }), readme);
  const more = completedCard(readme, "m", { baseModel: "org/base", tags: ["qlora"] });
  assert.equal(more, "---\ntags:\n  - lora\n  - qlora\nlicense: mit\nbase_model: org/base\n---\n\n# Mine\n");
  assert.equal(completedCard("", "m", { license: "mit" }), "---\nlicense: mit\n---\n\n# m\n");
  assert.throws(() => completedCard("---\n- a\n---\n", "m", {}), /README\.md: front matter: expected a YAML mapping/);
});
