// Decoding steps that are recorded and replayed give the tokens and the very log-probabilities of steps that are not,
// whatever comes and goes meanwhile; what is recorded is used again while it holds, and not a step longer.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { DeviceGraphs, memory, normalFill, Tensor } from "#native";
import { Scheduler, type SchedulerOptions } from "../../packages/engine/generation/scheduler.ts";
import type { GeneratedToken, GenerationRequest } from "../../packages/engine/generation/sequence.ts";
import { freeServed, type ServedAdapter, servedOf } from "../../packages/engine/generation/served-adapter.ts";
import { createAdapter } from "../../packages/engine/lora.ts";
import { freeModel } from "../../packages/engine/model-load.ts";
import type { LlamaModel } from "../../packages/engine/models/llama.ts";
import { loadGoldenModel } from "../support/golden-model.ts";

const device = "cuda";
const limits = { sequencesMax: 12, stepTokensMax: 24, cacheTokensMax: 512, waitingMax: 16 };
const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
const plain = { sampling, adapter: null, stopIds: [], wantLogits: false };
const inUse = () => Object.values(memory.report(device).current).reduce((sum, bytes) => sum + bytes, 0);

function adapterOf(model: LlamaModel, seed: number): ServedAdapter {
  const shape = { rank: 2 + seed, alpha: 8, dropout: 0, useRslora: false, rankPattern: {}, alphaPattern: {} };
  const config = { ...shape, targetModules: "all-linear", baseModelNameOrPath: "" } as const;
  const adapter = createAdapter(config, model.config, device, seed);
  let stream = 0;
  for (const { b } of adapter.layers.values()) normalFill(b, { mean: 0, std: 0.3, seed, stream: stream++ });
  return servedOf(adapter);
}

interface Arrival {
  /** The step before which it comes. */
  at: number;
  tokens: number;
  news: number;
  adapter?: ServedAdapter;
  cancelAt?: number;
}

interface Answer {
  ids: number[];
  logprobs: number[];
}

/** All answers. `between` runs before each step. */
function answersOf(scheduler: Scheduler, arrivals: readonly Arrival[], between: (step: number) => unknown = () => {}) {
  const answers = arrivals.map((): Answer => ({ ids: [], logprobs: [] }));
  const cancels = new Map<number, () => void>();
  let waiting = arrivals.length;
  for (let step = 0; waiting > 0 || scheduler.hasWork; step++) {
    arrivals.forEach(({ at, tokens, news, adapter = null, cancelAt }, i) => {
      if (at !== step) return;
      const inputIds = Array.from({ length: tokens }, (_, k) => (k * k * 7 + 31 * i + 3) % 500);
      const request: GenerationRequest = { ...plain, inputIds, maxNewTokens: news, adapter };
      const onToken = ({ id, logprob }: GeneratedToken) => {
        answers[i]?.ids.push(id);
        answers[i]?.logprobs.push(logprob);
      };
      const onError = (error: unknown) => assert.fail(String(error));
      const ticket = scheduler.submit(request, { onToken, onFinish() {}, onError });
      if (cancelAt !== undefined) cancels.set(cancelAt, () => ticket.cancel());
      waiting--;
    });
    cancels.get(step)?.();
    between(step);
    scheduler.step();
  }
  return answers;
}

describe("recorded decoding steps", () => {
  let model: LlamaModel;
  before(() => {
    model = loadGoldenModel("llama_untied_nf4_dq", device);
  });
  after(() => {
    freeModel(model);
    assert.equal(inUse(), 0);
  });

  function run<T>(options: Partial<SchedulerOptions>, work: (scheduler: Scheduler) => T): T {
    const scheduler = new Scheduler(model, { ...limits, device, dtype: "bfloat16", ...options });
    try {
      return work(scheduler);
    } finally {
      scheduler.free();
    }
  }

  for (const dtype of ["float32", "bfloat16"] as const) {
    test(`${dtype}: sequences that come, go, are cancelled, grow by pages and have adapters`, () => {
      const [one, two] = [adapterOf(model, 1), adapterOf(model, 2)];
      const arrivals: Arrival[] = [
        { at: 0, tokens: 5, news: 40 },
        { at: 6, tokens: 20, news: 14, adapter: one },
        { at: 8, tokens: 3, news: 30, cancelAt: 20 },
        { at: 9, tokens: 9, news: 12, adapter: two },
        ...[0, 1, 2, 3, 4, 5].map((i) => ({ at: 14, tokens: 4 + i, news: 6 })),
      ];
      const expected = run({ dtype, stepGraphs: false }, (s) => answersOf(s, arrivals));
      run({ dtype }, (scheduler) => {
        assert.deepEqual(answersOf(scheduler, arrivals), expected);
        const { recorded, replayed, error } = scheduler.graphStats;
        assert.equal(error, null);
        assert.ok(recorded > 3 && replayed > 2 * recorded, JSON.stringify({ recorded, replayed }));
      });
      freeServed(one);
      freeServed(two);
    });
  }

  test("one sequence is recorded once for each width of its table, and replayed for every other token", () => {
    run({}, (scheduler) => {
      // The prompt's step gives the first token; the table is 1, 2 and 4 pages of 16 tokens wide.
      answersOf(scheduler, [{ at: 0, tokens: 4, news: 41 }]);
      assert.deepEqual(scheduler.graphStats, { recorded: 3, replayed: 37, forgotten: 0, error: null });
      answersOf(scheduler, [{ at: 0, tokens: 4, news: 41 }]);
      assert.deepEqual(scheduler.graphStats, { recorded: 3, replayed: 77, forgotten: 0, error: null });
    });
  });

  test("an adapter that is unloaded takes its graphs along; the next one is recorded anew and answers as it does alone", () => {
    const ask = (scheduler: Scheduler, adapter: ServedAdapter) =>
      answersOf(scheduler, [{ at: 0, tokens: 4, news: 8, adapter }]);
    const [first, second] = [adapterOf(model, 1), adapterOf(model, 2)];
    const expected = run({ stepGraphs: false }, (scheduler) => ask(scheduler, second));
    freeServed(second);
    run({}, (scheduler) => {
      const before = ask(scheduler, first);
      assert.deepEqual(scheduler.graphStats, { recorded: 1, replayed: 6, forgotten: 0, error: null });
      scheduler.forget(first);
      freeServed(first);
      assert.equal(scheduler.graphStats.forgotten, 1);
      const next = adapterOf(model, 2);
      const got = ask(scheduler, next);
      assert.deepEqual(got, expected);
      assert.notDeepEqual(got, before);
      assert.equal(scheduler.graphStats.recorded, 2);
      scheduler.forget(next);
      freeServed(next);
    });
  });

  test("where memory does not suffice for recorded steps, they run plainly, with the same tokens", () => {
    const arrivals = [{ at: 0, tokens: 4, news: 20 }];
    const expected = run({ stepGraphs: false }, (scheduler) => answersOf(scheduler, arrivals));
    run({}, (scheduler) => {
      try {
        // Enough to replay and to draw; a table of two pages, when the 17th token comes, is more.
        const got = answersOf(scheduler, arrivals, (step) => step === 5 && memory.setLimit(inUse() + 256, device));
        assert.deepEqual(got, expected);
        assert.match(String(scheduler.graphStats.error), /memory limit/);
      } finally {
        memory.setLimit(0, device);
      }
    });
  });
});

describe("a recording", () => {
  const at = { device, kind: "activations" } as const;

  test("refuses what waits, moves bytes or needs the device's memory, and leaves nothing behind", () => {
    const before = inUse();
    const graphs = new DeviceGraphs(device);
    const kept = Tensor.empty("float32", [64], at).zero();
    const refused = (work: () => void) => {
      assert.throws(() => graphs.record(work), {
        code: "FAILED_PRECONDITION",
        message: /expected work that can be recorded/,
      });
    };
    refused(() => kept.read());
    refused(() => kept.write(new Uint8Array(4)));
    refused(() => Tensor.empty("float32", [123_457], at).free());
    assert.deepEqual(kept.read(0, 4), new Uint8Array(4));
    graphs.free();
    kept.free();
    assert.equal(inUse(), before);
  });

  test("runs when it is replayed, and not before", () => {
    const graphs = new DeviceGraphs(device);
    const t = Tensor.fromBytes(new Uint8Array(16).fill(7), "uint8", [16], at);
    const graph = graphs.record(() => t.zero());
    assert.deepEqual(t.read(), new Uint8Array(16).fill(7));
    graphs.replay(graph);
    assert.deepEqual(t.read(), new Uint8Array(16));
    graphs.forget(graph);
    assert.throws(() => graphs.replay(graph), { code: "INVALID_ARGUMENT" });
    graphs.free();
    t.free();
  });
});
