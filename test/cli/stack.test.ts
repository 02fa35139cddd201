// nibble start and the commands that work through it, as processes: the whole stack, its front and its end.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, type TestContext, test } from "node:test";
import { mainFile, nibble } from "../support/cli.ts";
import { goldenPath, temporaryFolder } from "../support/folders.ts";

interface Started {
  child: ChildProcess;
  endpoint: string;
  /** Of the services, the registry's first. */
  pids: number[];
  /** Its lines on stderr. */
  messages: string[];
}

async function startStack(t: TestContext, home: string): Promise<Started> {
  const child = spawn(process.execPath, [
    "--disable-warning=ExperimentalWarning",
    mainFile,
    "start",
    "--port",
    "0",
    "--home",
    home,
  ]);
  const exited = once(child, "exit");
  t.after(async () => {
    child.kill("SIGTERM");
    await exited;
  });
  const pids: number[] = [];
  createInterface({ input: child.stdout }).on("line", (text) => {
    const { msg, pid } = JSON.parse(text);
    if (msg === "listening") pids.push(pid);
  });
  const messages: string[] = [];
  const ready = Promise.withResolvers<string>();
  createInterface({ input: child.stderr }).on("line", (text) => {
    messages.push(text);
    const endpoint = /--endpoint (\S+);/.exec(text)?.[1];
    if (endpoint) ready.resolve(endpoint);
  });
  child.once("close", () => ready.reject(new Error(`the stack did not start: ${messages.join("\n")}`)));
  return { child, endpoint: await ready.promise, pids, messages };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function gone(pids: readonly number[]): Promise<void> {
  while (pids.some(isAlive)) await new Promise((resolve) => setTimeout(resolve, 20));
}

const model = goldenPath("llama_untied");

describe("a stack", () => {
  test("does the main job through one address, with the same tokens as without it", async (t) => {
    const folder = temporaryFolder(t);
    const { endpoint, messages } = await startStack(t, join(folder, "home"));
    const run = async (...args: string[]) => {
      const result = await nibble([...args, "--endpoint", endpoint, "--json"]);
      assert.equal(result.code, 0, `${args.join(" ")}: ${result.stderr}`);
      return JSON.parse(result.stdout);
    };
    const [base, adapter, data] = [join(folder, "q"), join(folder, "adapter"), join(folder, "rows.jsonl")];
    writeFileSync(data, '{"prompt":"one","completion":" two three"}\n'.repeat(8));
    const quantized = await run("quantize", model, "--out", base);
    assert.match(quantized.digest, /^sha256:/);
    const flags = ["--rank", "4", "--steps", "6", "--lr", "0.01", "--eval-data", data];
    const trained = await run("train", "--model", base, "--data", data, "--out", adapter, ...flags);
    assert.equal(trained.baseDigest, quantized.digest);
    assert.ok(trained.evalLoss < trained.firstLoss);
    const { jobs } = await run("jobs", "list");
    assert.deepEqual([jobs.length, jobs[0].state, jobs[0].step], [1, "SUCCEEDED", 6]);

    const pushed = await run("adapters", "push", adapter, "--name", "tiny", "--alias", "live");
    assert.deepEqual([pushed.name, pushed.aliases], ["adapters/tiny/versions/1", ["live"]]);
    assert.deepEqual((await run("adapters", "list")).adapters, [
      { id: "tiny", latest_version: 1, aliases: { live: 1 } },
    ]);
    await run("adapters", "pull", "tiny@live", "--out", join(folder, "pulled"));
    const weights = (dir: string) => readFileSync(join(dir, "adapter_model.safetensors"));
    assert.deepEqual(weights(join(folder, "pulled")), weights(adapter));

    const hub = messages.map((text) => /^HF_ENDPOINT=(\S+)/.exec(text)?.[1]).find((url) => url !== undefined);
    const listed = (await (await fetch(`${hub}/api/models`)).json()) as { id: string }[];
    assert.deepEqual(
      listed.map(({ id }) => id),
      ["adapters/tiny"],
    );

    const openai = messages.map((text) => /^OPENAI_BASE_URL=(\S+)/.exec(text)?.[1]).find((url) => url !== undefined);
    const ask = ["generate", "--model", base, "--prompt", "one", "--max-new-tokens", "6", "--ignore-eos"];
    const served = await run(...ask, "--adapter", "adapters/tiny/aliases/live");
    const local = await nibble([...ask, "--adapter", adapter, "--json"]);
    assert.deepEqual(served.token_ids, JSON.parse(local.stdout).token_ids);
    const shaped = [
      "generate",
      "--model",
      base,
      "--prompt",
      "one",
      "--n",
      "2",
      "--temperature",
      "1",
      "--logprobs",
      "1",
    ];
    shaped.push("--regex", "[a-z ]{1,8}(!|\\?)", "--stop", "?", "--presence-penalty", "0.5", "--max-new-tokens", "12");
    const plain = ({ answers }: { answers: Record<string, unknown>[] }) =>
      answers.map(({ token_ids: ids, text, finish_reason: reason }) => [ids, text, reason]);
    const shapedLocal = await nibble([...shaped, "--json"]);
    const shapedServed = await run(...shaped);
    assert.deepEqual(plain(shapedServed), plain(JSON.parse(shapedLocal.stdout)));
    assert.equal(shapedServed.answers[1].logprobs[0].top.length, 1);
    const body = { model: "tiny:live", prompt: "one", max_tokens: 6, temperature: 0, ignore_eos: true };
    const answer = await fetch(`${openai}/completions`, { method: "POST", body: JSON.stringify(body) });
    const { model: by, choices } = (await answer.json()) as { model: string; choices: { text: string }[] };
    assert.deepEqual([by, choices[0]?.text], ["tiny@1", served.text]);
    const refused = await nibble(["jobs", "get", "none", "--endpoint", endpoint]);
    assert.deepEqual([refused.code, refused.stdout], [2, ""]);
    assert.match(refused.stderr, /^error: \[training_job\] trainingJobs\/none: expected a job, got none\n$/);
  });

  test("Ctrl-C while a job of the stack is watched cancels the job and writes no adapter", async (t) => {
    const folder = temporaryFolder(t);
    const { endpoint } = await startStack(t, join(folder, "home"));
    const data = join(folder, "rows.jsonl");
    writeFileSync(data, '{"prompt":"one","completion":" two three"}\n');
    const out = join(folder, "adapter");
    const train = [
      "train",
      "--model",
      model,
      "--data",
      data,
      "--out",
      out,
      "--steps",
      "100000",
      "--endpoint",
      endpoint,
    ];
    const run = await nibble(train, { interrupt: { after: "step ", signal: "SIGINT" } });
    assert.equal(run.code, 130, run.stderr);
    const id = /trainingJobs\/(\S+)/.exec(run.stderr)?.[1] ?? "";
    const watched = await nibble(["jobs", "watch", id, "--endpoint", endpoint, "--json"]);
    assert.equal(JSON.parse(watched.stdout).state, "CANCELLED");
    assert.equal(existsSync(join(out, "adapter_model.safetensors")), false);
  });

  test("SIGTERM ends it and its services with exit code 0", async (t) => {
    const { child, pids } = await startStack(t, temporaryFolder(t));
    assert.equal(pids.length, 5);
    child.kill("SIGTERM");
    const [code] = await once(child, "exit");
    assert.equal(code, 0);
    assert.deepEqual(pids.filter(isAlive), []);
  });

  test("a service that dies ends the stack with exit code 1 and its name", async (t) => {
    const { child, pids, messages } = await startStack(t, temporaryFolder(t));
    const exited = once(child, "exit");
    process.kill(pids[0] ?? 0, "SIGKILL");
    assert.deepEqual([(await exited)[0], pids.filter(isAlive)], [1, []]);
    assert.match(messages.join("\n"), /^error: \[stack\] registry: ended by itself/m);
  });

  test("its services stop when it is killed", async (t) => {
    const { child, pids } = await startStack(t, temporaryFolder(t));
    child.kill("SIGKILL");
    await gone(pids);
  });

  test("a port in use is one clear line, and nothing is left running", async (t) => {
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    t.after(() => taken.close());
    const { port } = taken.address() as { port: number };
    const run = await nibble(["start", "--port", String(port), "--home", temporaryFolder(t)]);
    assert.equal(run.code, 2);
    assert.match(run.stderr, new RegExp(`^error: \\[start\\] 127\\.0\\.0\\.1:${port}: expected a free port`, "m"));
  });

  test("adapters work without a stack, in this machine's own folder", async (t) => {
    const env = { NIBBLE_HOME: temporaryFolder(t) };
    const adapter = goldenPath("train", "qlora_adapter");
    const digest = `sha256:${"0".repeat(64)}`;
    const push = await nibble(["adapters", "push", adapter, "--name", "a", "--base-digest", digest, "--json"], { env });
    assert.equal(push.code, 0, push.stderr);
    const list = await nibble(["adapters", "list", "a", "--json"], { env });
    assert.deepEqual(
      JSON.parse(list.stdout).versions.map((v: { name: string }) => v.name),
      ["adapters/a/versions/1"],
    );
  });
});
