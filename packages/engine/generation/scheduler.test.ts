// Whatever comes beside a request, its tokens are those it has alone; pages all come back; callers are served alike.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import fc from "fast-check";
import { type ModelFolder, openModelFolder } from "#packages/hub";
import { goldenPath } from "../../../test/support/golden-model.ts";
import { freeModel, loadModel } from "../model-load.ts";
import type { LlamaModel } from "../models/llama.ts";
import { lookUp } from "./lookup.ts";
import { Scheduler, type SchedulerOptions } from "./scheduler.ts";
import type { GenerationRequest, TokenScore } from "./sequence.ts";

const roomy = { sequencesMax: 1, stepTokensMax: 256, cacheTokensMax: 512, waitingMax: 100 };
const place = { device: "cpu", dtype: "float32" } as const;
const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
const plain = { sampling: greedy, adapter: null, stopIds: [], wantLogits: false };

interface Outcome {
  ids: number[];
  logprobs: number[];
  scores: TokenScore[];
  reason: string | null;
  cachedTokens: number;
}

function submit(scheduler: Scheduler, request: GenerationRequest): Outcome & { cancel(): void } {
  const outcome: Outcome = { ids: [], logprobs: [], scores: [], reason: null, cachedTokens: 0 };
  const ticket = scheduler.submit(request, {
    onToken: ({ id, logprob }) => {
      outcome.ids.push(id);
      outcome.logprobs.push(logprob);
    },
    onScore: (score) => outcome.scores.push(score),
    onFinish: (reason, timing) => {
      outcome.reason = reason;
      outcome.cachedTokens = timing.cachedTokens;
    },
    onError: (error) => {
      throw error;
    },
  });
  return Object.assign(outcome, { cancel: () => ticket.cancel() });
}

/** Products of few and of many rows add up in another order. */
function assertNear(got: readonly number[], expected: readonly number[]): void {
  for (const [i, value] of got.entries()) {
    assert.ok(Math.abs(value - expected[i]!) < 2e-4, `${i}: expected ${expected[i]}, got ${value}`);
  }
}

describe("a scheduler", () => {
  let folder: ModelFolder;
  let model: LlamaModel;
  before(() => {
    folder = openModelFolder(goldenPath("llama_untied_nf4_dq"));
    model = loadModel(folder, { device: "cpu", quant: null });
  });
  after(() => {
    freeModel(model);
    folder.close();
  });

  function withScheduler<T>(limits: Partial<SchedulerOptions>, work: (scheduler: Scheduler) => T): T {
    const scheduler = new Scheduler(model, { ...roomy, ...place, ...limits });
    try {
      return work(scheduler);
    } finally {
      scheduler.free();
    }
  }
  /** Lets everything come, and is ready when it is told to be. */
  const lateConstraint = () => {
    const come = Promise.withResolvers<void>();
    const constraint = {
      mask: Int32Array.from({ length: 16 }, () => -1),
      isReady: true,
      accept: () => {
        constraint.isReady = false;
      },
      ready: () => come.promise,
    };
    const comes = () => {
      constraint.isReady = true;
      come.resolve();
    };
    return { constraint, comes };
  };

  test("a constraint that takes long holds up its own answer alone, and can be cancelled meanwhile", async () => {
    const scheduler = new Scheduler(model, { ...roomy, ...place, sequencesMax: 3 });
    const [slow, left] = [lateConstraint(), lateConstraint()];
    const request = { ...plain, inputIds: [5, 6, 7], maxNewTokens: 8 };
    const free = submit(scheduler, request);
    const held = submit(scheduler, { ...request, constraint: slow.constraint });
    const cancelled = submit(scheduler, { ...request, constraint: left.constraint });
    const steps = async (count: number) => {
      for (let i = 0; i < count; i++) {
        await scheduler.ready();
        scheduler.step();
      }
    };
    await steps(4);
    assert.deepEqual([free.ids.length, held.ids.length, cancelled.ids.length], [4, 1, 1]);
    cancelled.cancel();
    await steps(4);
    assert.deepEqual([free.reason, cancelled.reason, held.ids.length], ["length", "cancelled", 1]);
    await steps(2);
    slow.constraint.accept = () => {};
    slow.comes();
    await steps(7);
    assert.deepEqual([held.reason, held.ids], ["length", free.ids]);
    scheduler.free();
  });

  function finish(scheduler: Scheduler): void {
    while (scheduler.hasWork) scheduler.step();
  }
  const alone = (request: GenerationRequest): Outcome =>
    withScheduler({}, (scheduler) => {
      const { cacheKey: _, group: __, lookupTokens: ___, ...rest } = request;
      const outcome = submit(scheduler, rest);
      finish(scheduler);
      return outcome;
    });
  const text = (length: number, seed: number) => Array.from({ length }, (_, i) => (i * i * (3 + seed) + seed) % 512);

  test("random arrivals, cancellations, shared beginnings and too few pages change no token", () => {
    const request = fc.record({
      at: fc.nat(40),
      prefix: fc.nat(2),
      prefixTokens: fc.nat(40),
      own: fc.integer({ min: 1, max: 20 }),
      news: fc.integer({ min: 1, max: 40 }),
      seed: fc.nat(3),
      sampled: fc.boolean(),
      caller: fc.constantFrom("a", "b"),
      group: fc.constantFrom(undefined, undefined, "g"),
      lookupTokens: fc.constantFrom(0, 4),
      cancelAt: fc.option(fc.nat(60), { freq: 3 }),
    });
    let preemptions = 0;
    let shared = 0;
    let guessed = 0;
    const run = fc.property(fc.array(request, { minLength: 1, maxLength: 10 }), (arrivals) => {
      withScheduler({ sequencesMax: 4, stepTokensMax: 24, cacheTokensMax: 112 }, (scheduler) => {
        const toRequest = (a: (typeof arrivals)[number]): GenerationRequest => {
          // Requests of one group have one prompt.
          const inputIds = a.group ? text(35, 9) : [...text(a.prefixTokens, a.prefix), ...text(a.own, 5 + a.seed)];
          const repetitionPenalty = a.lookupTokens > 0 ? 0.1 : 1;
          const sampling = { ...greedy, repetitionPenalty, temperature: Number(a.sampled), seed: a.seed };
          const common = { ...plain, inputIds, sampling, maxNewTokens: a.news, caller: a.caller, cacheKey: "" };
          return { ...common, lookupTokens: a.lookupTokens, ...(a.group ? { group: a.group } : {}) };
        };
        const going: { outcome: ReturnType<typeof submit>; arrival: (typeof arrivals)[number] }[] = [];
        for (let step = 0; step <= 60 || scheduler.hasWork; step++) {
          for (const arrival of arrivals.filter(({ at }) => at === step)) {
            going.push({ outcome: submit(scheduler, toRequest(arrival)), arrival });
          }
          for (const { outcome, arrival } of going) if (arrival.cancelAt === step) outcome.cancel();
          scheduler.step();
        }
        for (const { outcome, arrival } of going) {
          const expected = alone(toRequest(arrival));
          const isWhole = outcome.reason !== "cancelled";
          const count = isWhole ? expected.ids.length : outcome.ids.length;
          assert.deepEqual(outcome.ids, expected.ids.slice(0, count));
          assertNear(outcome.logprobs, expected.logprobs);
          if (arrival.cancelAt === null) assert.equal(outcome.reason, expected.reason);
        }
        const { pagesUsed, running, waiting, ...counters } = scheduler.stats;
        assert.deepEqual([pagesUsed, running, waiting], [0, 0, 0]);
        preemptions += counters.preemptions;
        shared += counters.promptTokensCached;
        guessed += counters.lookupAccepted;
      });
    });
    fc.assert(run, { numRuns: 40, seed: 7 });
    // The cases are worth something only if it all happened.
    assert.ok(preemptions > 10 && shared > 100 && guessed > 10, `${preemptions} ${shared} ${guessed}`);
  });

  test("a prompt's beginning that is there is not computed again, and other adapters do not see it", () => {
    withScheduler({ sequencesMax: 2 }, (scheduler) => {
      const inputIds = text(50, 1);
      const ask = (cacheKey: string | null, ids = inputIds) => {
        const outcome = submit(scheduler, { ...plain, inputIds: ids, maxNewTokens: 3, cacheKey });
        finish(scheduler);
        return outcome;
      };
      const first = ask("");
      const again = ask("");
      assert.deepEqual([first.cachedTokens, again.cachedTokens], [0, 48]);
      assert.deepEqual(again.ids, first.ids);
      assertNear(again.logprobs, first.logprobs);
      assert.equal(ask("other").cachedTokens, 0);
      assert.equal(ask(null).cachedTokens, 0);
      assert.equal(ask("", inputIds.slice(0, 48)).cachedTokens, 32);
      assert.equal(ask("", [...inputIds.slice(0, 20), ...text(30, 2)]).cachedTokens, 16);
    });
  });

  test("a group's prompt is computed once, and its answers go apart", () => {
    withScheduler({ sequencesMax: 4 }, (scheduler) => {
      const inputIds = text(37, 3);
      const sampled = (seed: number) => ({
        ...plain,
        inputIds,
        maxNewTokens: 20,
        sampling: { ...greedy, temperature: 1, seed },
      });
      const outcomes = [1, 2, 3, 4].map((seed) => submit(scheduler, { ...sampled(seed), group: "g", cacheKey: null }));
      let most = 0;
      while (scheduler.hasWork) {
        scheduler.step();
        most = Math.max(most, scheduler.stats.pagesUsed);
      }
      assert.deepEqual(
        outcomes.map(({ cachedTokens }) => cachedTokens),
        [0, 36, 36, 36],
      );
      for (const [i, { ids }] of outcomes.entries()) assert.deepEqual(ids, alone(sampled(i + 1)).ids);
      // Two whole pages of the prompt are there once; each has its own third and fourth.
      assert.ok(most <= 2 + 4 * 2, `${most} pages`);
    });
  });

  test("a request whose client left is gone within a step, wherever it was", () => {
    withScheduler({ sequencesMax: 1 }, (scheduler) => {
      const request = { ...plain, inputIds: text(20, 1), maxNewTokens: 100, group: "g" };
      const all = [1, 2, 3].map(() => submit(scheduler, request));
      const other = submit(scheduler, { ...request, group: "h" });
      for (let i = 0; i < 3; i++) scheduler.step();
      all[0]!.cancel();
      all[2]!.cancel();
      scheduler.step();
      assert.deepEqual([all[0]!.reason, all[2]!.reason], ["cancelled", "cancelled"]);
      all[1]!.cancel();
      other.cancel();
      scheduler.step();
      const { running, waiting, pagesUsed } = scheduler.stats;
      assert.deepEqual([running, waiting, pagesUsed], [0, 0, 0]);
    });
  });

  test("what is said twice is guessed, in fewer steps", () => {
    // A penalty below 1 makes the model repeat itself.
    const request = { ...plain, inputIds: text(24, 1), maxNewTokens: 100 };
    const sampling = { ...greedy, repetitionPenalty: 0.1 };
    const steps = (lookupTokens: number) =>
      withScheduler({}, (scheduler) => {
        const outcome = submit(scheduler, { ...request, sampling, lookupTokens });
        finish(scheduler);
        return { ids: outcome.ids, ...scheduler.stats };
      });
    const [without, guessed] = [steps(0), steps(8)];
    assert.deepEqual(guessed.ids, without.ids);
    assert.equal(guessed.steps, without.steps - guessed.lookupAccepted);
    assert.ok(guessed.lookupAccepted > 20, `${guessed.lookupAccepted} of ${guessed.lookupGuessed}`);
  });

  test("given tokens score as drawn ones do, in one step or many", () => {
    const inputIds = text(20, 1);
    const drawn = alone({ ...plain, inputIds, maxNewTokens: 40 });
    const whole = [...inputIds, ...drawn.ids];
    for (const limits of [{}, { stepTokensMax: 7 }, { sequencesMax: 4, stepTokensMax: 16 }]) {
      withScheduler(limits, (scheduler) => {
        for (let round = 0; round < 2; round++) {
          const score = { from: inputIds.length };
          const wish = { ...plain, inputIds: whole, maxNewTokens: 0, score, topLogprobs: 2, cacheKey: "" };
          const { scores, reason } = outcomeOf(scheduler, wish);
          assert.equal(reason, "length");
          assert.deepEqual(
            scores.map(({ id }) => id),
            drawn.ids,
          );
          assertNear(
            scores.map(({ logprob }) => logprob),
            drawn.logprobs,
          );
          assert.ok(scores.every(({ isGreedy, top, id }) => isGreedy && top.length === 2 && top[0]?.id === id));
        }
      });
    }
    function outcomeOf(scheduler: Scheduler, wish: GenerationRequest): Outcome {
      const outcome = submit(scheduler, wish);
      finish(scheduler);
      return outcome;
    }
  });

  test("callers that always have requests are served alike, however many they send", () => {
    withScheduler({ sequencesMax: 2, waitingMax: 1000 }, (scheduler) => {
      const request = (caller: string, tokens: number) => ({
        ...{ ...plain, inputIds: text(tokens, 1), maxNewTokens: 12, caller, cacheKey: null },
      });
      const flood = Array.from({ length: 60 }, () => submit(scheduler, request("many", 8)));
      const few = Array.from({ length: 12 }, () => submit(scheduler, request("few", 20)));
      const service = (outcomes: Outcome[], prompt: number) =>
        outcomes.reduce((sum, o) => sum + (o.ids.length > 0 ? prompt : 0) + 2 * o.ids.length, 0);
      // The bound of the paper's Theorem 4.4, with the work of one request and of a batch: 2 max(prompt, 2 · answers).
      const bound = 2 * Math.max(20, 2 * 2 * 12);
      while (few.some(({ reason }) => reason === null) && scheduler.hasWork) {
        scheduler.step();
        const apart = Math.abs(service(flood, 8) - service(few, 20));
        if (few.at(-1)!.ids.length === 0) assert.ok(apart <= bound, `${apart} apart`);
      }
      assert.ok(flood.filter(({ reason }) => reason !== null).length < 30);
      for (const outcome of flood) outcome.cancel();
      finish(scheduler);
    });
  });

  test("a full queue refuses with the limit", () => {
    withScheduler({ sequencesMax: 1, waitingMax: 2 }, (scheduler) => {
      const request = { ...plain, inputIds: [1], maxNewTokens: 2, group: "g" };
      for (let i = 0; i < 2; i++) submit(scheduler, request);
      assert.throws(() => submit(scheduler, request), {
        code: "RESOURCE_EXHAUSTED",
        details: { quota: "waiting requests", limit: "2" },
      });
      finish(scheduler);
      submit(scheduler, request);
      finish(scheduler);
    });
  });
});

test("a look-up finds the last place with the longest end", () => {
  assert.deepEqual(lookUp([1, 2, 3, 9, 1, 2, 4, 1, 2], 3), [4, 1, 2]);
  assert.deepEqual(lookUp([5, 1, 2, 7, 8, 1, 2, 9, 5, 1, 2], 2), [7, 8]);
  assert.deepEqual(lookUp([1, 2, 3], 4), []);
  assert.deepEqual(lookUp([1, 1, 1], 4), [1]);
  assert.deepEqual(lookUp([1, 2, 1, 2], 0), []);
});
