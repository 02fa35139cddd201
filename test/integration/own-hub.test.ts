// The registry of this machine as the Hub that is asked first, where HF_ENDPOINT names none. A second registry, behind a
// front, stands for the public one.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { hubSettings, hubUrlFileName, pullRepo, pushFolder } from "#packages/hub";
import { push, startHub } from "../../services/adapter-registry/hub/test/support.ts";
import { smallAdapter } from "../../services/adapter-registry/test/support.ts";
import { temporaryFolder } from "../support/folders.ts";
import { startFront } from "../support/http-front.ts";

const quick = { waitMsFirst: 1, attemptsMax: 2 };
const card = { baseModel: "org/base" };

async function startWorld(t: TestContext) {
  const home = temporaryFolder(t);
  const own = await startHub(t, { dir: join(home, "registry"), config: { hubToken: "hf_ours" } });
  const there = await startHub(t);
  const front = await startFront(t, there.hubUrl);
  const env = {
    HF_HOME: temporaryFolder(t),
    HF_TOKEN: "hf_public",
    NIBBLE_HOME: home,
    NIBBLE_REGISTRY_HUB_TOKEN: "hf_ours",
  };
  const settings = () => ({ ...hubSettings(env), endpoint: front.url });
  const pull = (id: string) => pullRepo(id, { settings: settings(), ...quick });
  return { home, own: { ...own, as: { ...own.as, accessToken: "hf_ours" } }, there, front, env, settings, pull };
}

test("the registry of this machine has the first word, the public Hub what is not there", async (t) => {
  const { own, there, front, pull, settings } = await startWorld(t);
  await push(own, "org/mine", [{ path: "rows.txt", content: "mine" }]);
  await push(there, "org/mine", [{ path: "rows.txt", content: "theirs" }]);
  await push(there, "org/theirs", [{ path: "rows.txt", content: "theirs" }]);
  front.requests.length = 0;
  const mine = await pull("org/mine");
  assert.deepEqual([mine.endpoint, readFileSync(join(mine.folder, "rows.txt"), "utf8")], [own.hubUrl, "mine"]);
  assert.deepEqual(front.requests, []);
  const theirs = await pull("org/theirs");
  assert.deepEqual([theirs.endpoint, theirs.files], [front.url, ["rows.txt"]]);
  await assert.rejects(pull("org/nothing"), (error: Error) => {
    assert.match(error.message, /expected a repository at .*found none/);
    assert.ok(error.message.includes(front.url) && error.message.includes(`${own.hubUrl}, does not have it either`));
    return true;
  });
  front.requests.length = 0;
  const pushed = await pushFolder(smallAdapter, "org/adapter", { settings: settings(), card, ...quick });
  assert.equal(pushed.url, `${own.hubUrl}/org/adapter`);
  assert.deepEqual(front.requests, []);
});

test("a registry that is gone is passed over, its note is gone with it, and HF_ENDPOINT means that Hub alone", async (t) => {
  const { home, own, there, front, env, pull, settings } = await startWorld(t);
  await push(there, "org/theirs", [{ path: "rows.txt", content: "theirs" }]);
  const note = join(home, "registry", hubUrlFileName);
  const noted = readFileSync(note, "utf8");
  assert.equal(noted, own.hubUrl);
  assert.equal(hubSettings({ ...env, HF_ENDPOINT: "http://localhost:1" }).own, null);
  assert.equal(hubSettings({ ...env, NIBBLE_HUB: "" }).own, null);
  assert.equal(hubSettings({ ...env, NIBBLE_HUB: "http://hub:1/" }).own?.endpoint, "http://hub:1");
  assert.throws(() => hubSettings({ ...env, NIBBLE_HUB: "hub:1" }), /NIBBLE_HUB: expected an address/);
  await own.stop();
  assert.equal(existsSync(note), false);
  // As a killed one leaves it.
  writeFileSync(note, noted);
  assert.equal((await pull("org/theirs")).endpoint, front.url);
  const pushed = await pushFolder(smallAdapter, "org/adapter", { settings: settings(), card, ...quick });
  assert.equal(pushed.url, `${front.url}/org/adapter`);
});

test("this machine's registry is never shown the public Hub's token", async (t) => {
  const { own, env, home } = await startWorld(t);
  const front = await startFront(t, own.hubUrl);
  const tokens = new Set<string | undefined>();
  front.intercept = ({ headers }) => {
    tokens.add(headers.authorization);
    return false;
  };
  await push(own, "org/mine", [{ path: "rows.txt", content: "mine" }]);
  const settings = hubSettings({ ...env, NIBBLE_HOME: home, NIBBLE_HUB: front.url });
  assert.equal((await pullRepo("org/mine", { settings, ...quick })).endpoint, front.url);
  assert.deepEqual([...tokens], ["Bearer hf_ours"]);
});
