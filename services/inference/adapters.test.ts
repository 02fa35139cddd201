// Adapters in memory and on disk: a budget, pins, replacing and unloading while requests run.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, type TestContext, test } from "node:test";
import { type LoadedAdapter, Residency } from "#gen/nibble/inference/v1/inference_pb.ts";
import { adapterWeightsFileName } from "#packages/hub";
import { copyOfGolden, goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { longModel } from "../../test/support/models.ts";
import { type Started, silent, startService, until } from "../../test/support/services.ts";
import { readConfig } from "./config.ts";
import { openInference } from "./setup.ts";

const trained = goldenPath("train", "qlora_adapter");
const initial = goldenPath("train", "init_adapter");
const waitingMax = 20;

describe("adapters under a budget", () => {
  const atEnd: (() => void)[] = [];
  const t = { after: (work: () => void) => atEnd.push(work) } as unknown as TestContext;
  let started: Started;
  let bytes: bigint;
  before(async () => {
    const limits = { cacheTokensMax: 100_000, waitingMax, threads: 1, registry: "127.0.0.1:1" };
    // One adapter takes nearly half of it: two fit, three do not.
    const place = { dir: temporaryFolder(t), modelDir: longModel(t, 50_000), adapterBytesMax: 170_000 };
    const config = { ...readConfig({}), ...limits, ...place };
    started = await startService(t, await openInference(config, { now: Date.now, logger: silent }));
  });
  after(async () => {
    for (const work of atEnd.reverse()) await work();
  });

  const load = async (adapterId: string, dir: string, more: { replace?: boolean; pinned?: boolean } = {}) => {
    const source = { case: "adapterDir", value: dir } as const;
    const { adapter } = await started.clients.inference.loadAdapter({ adapterId, source, ...more });
    return adapter!;
  };
  const ids = async (adapter: string, maxNewTokens = 6): Promise<number[]> => {
    const input = { case: "prompt", value: "Hello there" } as const;
    const request = { input, adapter, sampling: { maxNewTokens, ignoreEos: true } };
    const found: number[] = [];
    for await (const { event } of started.clients.inference.generate(request)) {
      if (event.case === "token") found.push(event.value.id);
    }
    return found;
  };
  const residencies = async () => {
    const { adapters } = await started.clients.inference.listAdapters({});
    return Object.fromEntries(adapters.map(({ name, residency }) => [name.replace("loadedAdapters/", ""), residency]));
  };
  const resident = async () => (await started.clients.inference.getServingStats({})).adapterBytesResident;
  const memoryOfAdapters = async () => {
    const { model } = await started.clients.inference.getModel({});
    return model!.memory!.bytesByKind["adapter"]!;
  };
  /** An answer that goes on until it is stopped. */
  const begin = async (adapter: string) => {
    const stop = new AbortController();
    const input = { case: "prompt", value: "Hello" } as const;
    const sampling = { maxNewTokens: 40_000, ignoreEos: true };
    const stream = started.clients.inference.generate({ input, adapter, sampling }, { signal: stop.signal });
    const iterator = stream[Symbol.asyncIterator]();
    await iterator.next();
    const rest = (async () => {
      while (!(await iterator.next()).done);
    })().catch(() => {});
    return async () => {
      stop.abort();
      await rest;
    };
  };
  const empty = async () => {
    const { adapters } = await started.clients.inference.listAdapters({ pageSize: 1000 });
    for (const { name } of adapters) await started.clients.inference.unloadAdapter({ name });
    assert.equal(await memoryOfAdapters(), 0n);
  };

  test("those used longest ago go to disk and come back when they are asked for", async () => {
    const first: LoadedAdapter = await load("a", trained);
    bytes = first.bytes;
    assert.ok(bytes > 50_000n && bytes * 2n <= 170_000n && bytes * 3n > 170_000n, `${bytes} bytes`);
    const answer = await ids(first.name);
    await load("b", initial);
    await ids("loadedAdapters/a");
    await load("c", initial);
    const { HOST, DISK } = Residency;
    assert.deepEqual(await residencies(), { a: HOST, b: DISK, c: HOST });
    assert.deepEqual([await resident(), await memoryOfAdapters()], [2n * bytes, 2n * bytes]);
    await ids("loadedAdapters/b");
    assert.deepEqual(await residencies(), { a: DISK, b: HOST, c: HOST });
    assert.deepEqual(await ids("loadedAdapters/a"), answer);
    const { bytesFreed } = await started.clients.inference.unloadAdapter({ name: "loadedAdapters/a" });
    assert.equal(bytesFreed, bytes);
    await empty();
  });

  test("what is pinned or in use stays; when nothing can go, who comes waits for what is in use, in order", async () => {
    await load("a", trained, { pinned: true });
    await load("b", initial);
    const answer = await ids("loadedAdapters/b");
    const stop = await begin("loadedAdapters/b");
    const third = load("c", initial);
    const stats = async () => (await started.clients.inference.getServingStats({})).requestsRunning;
    const again = third.then(() => ids("loadedAdapters/b"));
    // Those that go on with what is in memory are not held up.
    await ids("loadedAdapters/a");
    assert.equal(await stats(), 1);
    assert.deepEqual(await residencies(), { a: Residency.HOST, b: Residency.HOST });
    // A new request for the adapter that has to go waits behind the one that it goes for.
    const later = ids("loadedAdapters/b");
    await stop();
    await third;
    assert.deepEqual([await again, await later], [answer, answer]);
    assert.deepEqual(await residencies(), { a: Residency.HOST, b: Residency.HOST, c: Residency.DISK });
    assert.deepEqual([await resident(), await memoryOfAdapters()], [2n * bytes, 2n * bytes]);
    await empty();
  });

  test("who waits for room is heard at its deadline, and leaves nothing behind", async () => {
    await load("a", trained, { pinned: true });
    await load("c", initial);
    await load("b", initial);
    const stop = await begin("loadedAdapters/b");
    const input = { case: "prompt", value: "Hello" } as const;
    const late = started.clients.inference.generate({ adapter: "loadedAdapters/c", input }, { deadlineMs: 300 });
    await assert.rejects(late[Symbol.asyncIterator]().next(), { code: "DEADLINE_EXCEEDED" });
    // What was to make way for it takes requests again.
    assert.equal((await ids("loadedAdapters/b")).length, 6);
    await stop();
    await empty();
  });

  test("more than may wait are refused, and told which limit it was", async () => {
    await load("a", trained);
    await load("b", initial);
    await load("c", initial);
    const stops = await Promise.all(["b", "c"].map((id) => begin(`loadedAdapters/${id}`)));
    const asked = Array.from({ length: waitingMax + 2 }, () => ids("loadedAdapters/a"));
    const details = { quota: "requests that wait for an adapter", limit: String(waitingMax) };
    await assert.rejects(asked.pop()!, { code: "RESOURCE_EXHAUSTED", details });
    for (const stop of stops) await stop();
    const answers = await Promise.all(asked);
    assert.ok(answers.every((answer) => answer.length === 6));
    await empty();
  });

  test("those who gave up do not take the places of others who wait", async () => {
    await load("a", trained);
    await load("b", initial);
    await load("c", initial);
    const stops = await Promise.all(["b", "c"].map((id) => begin(`loadedAdapters/${id}`)));
    const first = ids("loadedAdapters/a");
    const request = { adapter: "loadedAdapters/a", input: { case: "prompt", value: "Hello" } as const };
    const late = Array.from({ length: waitingMax }, () =>
      started.clients.inference.generate(request, { deadlineMs: 500 })[Symbol.asyncIterator]().next(),
    );
    await Promise.all(late.map((one) => assert.rejects(one, { code: "DEADLINE_EXCEEDED" })));
    const next = ids("loadedAdapters/a");
    for (const stop of stops) await stop();
    assert.deepEqual(await next, await first);
    await until(async () => (await started.clients.inference.listAdapters({})).adapters[0]?.requestsRunning === 0);
    await empty();
  });

  test("what does not fit beside what is pinned is refused at once", async () => {
    await load("a", trained, { pinned: true });
    await load("b", initial, { pinned: true });
    await assert.rejects(load("c", initial), {
      code: "RESOURCE_EXHAUSTED",
      message: /got one of \d+ beside \d+ that are pinned/,
      details: { quota: "bytes of adapters", limit: "170000" },
    });
    await empty();
  });

  test("many adapters, of which few fit, and more clients than fit: every request ends with its answer", async () => {
    const known = 40;
    for (let i = 0; i < known; i++) await load(`a${i}`, i % 2 === 0 ? trained : initial);
    const answers = [await ids("loadedAdapters/a0"), await ids("loadedAdapters/a1")];
    // As Zipf: the k-th is asked for as often as 1/k says.
    const wanted = Array.from({ length: 60 }, (_, i) => Math.floor(known ** ((i * 0.618034) % 1)) - 1);
    let next = 0;
    const client = async () => {
      for (let i = next++; i < wanted.length; i = next++) {
        const k = wanted[i]!;
        assert.deepEqual(await ids(`loadedAdapters/a${k}`), answers[k % 2]);
        assert.ok((await resident()) <= 170_000n);
      }
    };
    await Promise.all(Array.from({ length: 8 }, client));
    await empty();
  });

  test("an adapter that is replaced under its id: running answers keep theirs, whose bytes are freed after them", async () => {
    const before = await load("a", trained);
    const [old, next] = [await ids(before.name), await ids((await load("b", initial)).name)];
    assert.notDeepEqual(old, next);
    await started.clients.inference.unloadAdapter({ name: "loadedAdapters/b" });
    await assert.rejects(load("a", initial), { code: "ALREADY_EXISTS" });
    const stop = await begin("loadedAdapters/a");
    const after = await load("a", initial, { replace: true });
    assert.notEqual(after.contentDigest, before.contentDigest);
    assert.deepEqual(await ids("loadedAdapters/a"), next);
    assert.equal(await memoryOfAdapters(), 2n * bytes);
    await stop();
    await until(async () => (await memoryOfAdapters()) === bytes);
    await empty();
  });

  test("a score of many continuations ends with the adapter it began with, whatever replaces or unloads it", async () => {
    await load("a", trained);
    const { inference } = started.clients;
    const ids = (list: number[]) => ({ input: { case: "inputIds", value: { ids: list } } }) as const;
    const continuations = Array.from({ length: 200 }, (_, i) => ids([i, i + 1]));
    const wish = { adapter: "loadedAdapters/a", context: ids([1, 2, 3]), continuations };
    const whole = await inference.score(wish);
    const scoring = inference.score(wish);
    await until(async () => (await inference.listAdapters({})).adapters[0]?.requestsRunning === 1);
    await load("a", initial, { replace: true });
    // What is computed beside it, or was before, moves the last digits.
    const apart = ({ scores }: typeof whole) =>
      Math.max(...scores.map(({ logprob }, i) => Math.abs(logprob - whole.scores[i]!.logprob)));
    assert.ok(apart(await scoring) < 1e-3);
    const again = inference.score(wish);
    await until(async () => (await inference.listAdapters({})).adapters[0]?.requestsRunning === 1);
    await inference.unloadAdapter({ name: "loadedAdapters/a" });
    assert.ok(apart(await again) > 1e-2);
    assert.equal(await memoryOfAdapters(), 0n);
  });

  test("a bad adapter fails alone, and one whose folder has changed does not come back", async () => {
    const stop = await begin("");
    const broken = copyOfGolden(t, "train/qlora_adapter");
    const weights = readFileSync(join(broken, adapterWeightsFileName));
    writeFileSync(join(broken, adapterWeightsFileName), weights.subarray(0, weights.length - 100));
    await assert.rejects(load("bad", broken), { code: "DATA_LOSS" });
    const changing = copyOfGolden(t, "train/qlora_adapter");
    await load("a", changing);
    await load("b", initial);
    await load("c", initial);
    assert.equal((await residencies())["a"], Residency.DISK);
    const last = weights.length - 1;
    weights[last]! ^= 1;
    writeFileSync(join(changing, adapterWeightsFileName), weights);
    await assert.rejects(ids("loadedAdapters/a"), { code: "FAILED_PRECONDITION", message: /other content/ });
    await stop();
    await empty();
  });
});
