// The next token: rules against a plain restatement, frequencies against probabilities, and every
// instruction set against the reference.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import {
  chooseIsa,
  type Device,
  isa,
  noToken,
  type SampleRow,
  type SamplingOptions,
  sample,
  supportedIsas,
} from "#native";
import { Bench, numbers, seeded } from "../test/support/tensors.ts";

const initialIsa = isa();
after(() => chooseIsa(initialIsa));

const plain: SamplingOptions = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 7 };

/** The tokens that may be drawn and their probabilities, in order. */
function distribution(logits: Float32Array, o: SamplingOptions, seen: number[]): { token: number; p: number }[] {
  const penalty = Math.fround(o.repetitionPenalty);
  const scores = logits.map((x, i) => (!seen.includes(i) ? x : x > 0 ? x / penalty : x * penalty));
  let kept = [...scores].map((x, token) => ({ token, logit: x / Math.fround(o.temperature), p: 0 }));
  kept.sort((a, b) => b.logit - a.logit || a.token - b.token);
  if (o.topK > 0) kept = kept.slice(0, o.topK);
  const total = kept.reduce((sum, c) => sum + Math.exp(c.logit - kept[0]!.logit), 0);
  for (const c of kept) c.p = Math.exp(c.logit - kept[0]!.logit) / total;
  let before = 0;
  const nucleus = kept.filter((c, i) => {
    const stays = i === 0 || o.topP === 1 || before < Math.fround(o.topP);
    before += c.p;
    return stays;
  });
  const likely = nucleus.filter((c, i) => i === 0 || c.p >= Math.fround(o.minP) * nucleus[0]!.p);
  const mass = likely.reduce((sum, c) => sum + c.p, 0);
  return likely.map(({ token, p }) => ({ token, p: p / mass }));
}

interface Draws {
  tokens: number[];
  logprobs: number[];
}

function draw(device: Device, logits: Float32Array, o: SamplingOptions, seen: number[], streams: number): Draws {
  const bench = new Bench(device);
  // Row 1 of 3, so that a wrong row shows.
  const rows = Float32Array.from({ length: 3 * logits.length }, (_, i) =>
    i >= logits.length && i < 2 * logits.length ? logits[i - logits.length]! : i % 5,
  );
  const t = bench.of(rows, [3, logits.length]);
  const row = { row: 1, options: o, seen: Int32Array.from(seen) };
  const drawn = Array.from({ length: streams }, (_, stream) => ({ ...row, stream }));
  const all = sample(t, drawn);
  bench.free();
  return { tokens: all.map(({ token }) => token), logprobs: all.map(({ logprob }) => logprob) };
}

/** Every backend and instruction set; `run` gets its device. */
function everywhere(name: string, run: (device: Device) => void): void {
  test(`${name}: reference`, () => run("reference"));
  for (const set of supportedIsas()) {
    test(`${name}: cpu/${set}`, () => {
      chooseIsa(set);
      run("cpu");
    });
  }
}

describe("greedy", () => {
  const greedy = { ...plain, temperature: 0 };
  const pick = (device: Device, logits: number[], seen: number[] = [], o = greedy) =>
    draw(device, Float32Array.from(logits), o, seen, 1).tokens[0];
  everywhere("the largest logit, the lowest id on a tie", (device) => {
    assert.equal(pick(device, [1, 3, 2]), 1);
    assert.equal(pick(device, [1, 3, 3, 3]), 1);
    assert.equal(pick(device, [-0, 0, -1]), 0);
    assert.equal(pick(device, [-5, -3, -Infinity]), 1);
    assert.equal(pick(device, [2]), 0);
    const many = Array.from({ length: 1000 }, (_, i) => (i === 700 || i === 900 ? 9 : i % 8));
    assert.equal(pick(device, many), 700);
  });
  everywhere("the repetition penalty divides positive and multiplies negative logits, once", (device) => {
    const penalized = { ...greedy, repetitionPenalty: 2 };
    assert.equal(pick(device, [1, 3, 2], [1], penalized), 2);
    assert.equal(pick(device, [1, 3, 1.25], [1, 1, 1], penalized), 1);
    assert.equal(pick(device, [-3, -2, -3.5], [1], penalized), 0);
    assert.equal(pick(device, [-3, -2, -5], [0, 1, 2], penalized), 1);
  });
  everywhere("logprob is that of the raw logits", (device) => {
    const { tokens, logprobs } = draw(
      device,
      Float32Array.from([1, 3, 2]),
      { ...greedy, repetitionPenalty: 2 },
      [1],
      1,
    );
    const expected = 2 - Math.log(Math.exp(1) + Math.exp(3) + Math.exp(2));
    assert.equal(tokens[0], 2);
    assert.ok(Math.abs(logprobs[0]! - expected) < 1e-6, `expected ${expected}, got ${logprobs[0]}`);
  });
});

describe("draws", () => {
  everywhere("seed 0, stream 0 is Random123's known answer", (device) => {
    // Philox 4x32-10 of counter 0 and key 0 begins 6627e8d5 e169c58d: u = 0.3990...; token i of ten
    // equal ones covers [i / 10, (i + 1) / 10).
    const { tokens } = draw(device, new Float32Array(10), { ...plain, seed: 0 }, [], 1);
    assert.equal(tokens[0], 3);
  });
  const cases: [string, Partial<SamplingOptions>, number[]][] = [
    ["plain", {}, []],
    ["temperature", { temperature: 0.5 }, []],
    ["top-k", { topK: 5 }, []],
    ["top-p", { topP: 0.6 }, []],
    ["min-p", { minP: 0.2 }, []],
    ["all together", { temperature: 1.5, topK: 12, topP: 0.9, minP: 0.1, repetitionPenalty: 1.5 }, [0, 3, 3, 8]],
  ];
  for (const [name, options, seen] of cases) {
    everywhere(`${name}: frequencies are the probabilities`, (device) => {
      const o = { ...plain, ...options };
      const logits = numbers(seeded(3), 20).map((x) => 2 * x);
      const streams = 6000;
      const expected = distribution(logits, o, seen);
      const counts = new Map<number, number>();
      for (const token of draw(device, logits, o, seen, streams).tokens)
        counts.set(token, (counts.get(token) ?? 0) + 1);
      const allowed = new Set(expected.map((c) => c.token));
      for (const token of counts.keys()) assert.ok(allowed.has(token), `token ${token} is not among ${[...allowed]}`);
      const terms = expected.map(({ token, p }) => ((counts.get(token) ?? 0) - p * streams) ** 2 / (p * streams));
      const chi2 = terms.reduce((a, b) => a + b, 0);
      const freedom = expected.length - 1;
      // Beyond five standard deviations of the distribution's own spread.
      assert.ok(
        chi2 < freedom + 5 * Math.sqrt(2 * freedom) + 5,
        `chi-square ${chi2} with ${freedom} degrees of freedom`,
      );
    });
  }
  everywhere("a kept set of one leaves no choice", (device) => {
    const logits = Float32Array.from([0, 4, 1, 4]);
    for (const o of [{ topK: 1 }, { topP: 0.01 }]) {
      assert.deepEqual(draw(device, logits, { ...plain, ...o }, [], 20).tokens, Array(20).fill(1));
    }
    const tokens = new Set(draw(device, logits, { ...plain, minP: 1 }, [], 40).tokens);
    assert.deepEqual([...tokens].sort(), [1, 3]); // both have the largest probability
  });
  everywhere("a masked token never comes", (device) => {
    const logits = Float32Array.from([-Infinity, 0, -Infinity, 0.5]);
    const tokens = new Set(draw(device, logits, { ...plain, temperature: 50 }, [], 200).tokens);
    assert.deepEqual([...tokens].sort(), [1, 3]);
  });
  everywhere("tiny temperatures and huge penalties stay finite", (device) => {
    const logits = Float32Array.from([3e38, -3e38, 1]);
    assert.deepEqual(draw(device, logits, { ...plain, temperature: 1e-30 }, [], 3).tokens, [0, 0, 0]);
    const all = draw(device, logits, { ...plain, repetitionPenalty: 1e30 }, [0, 1, 2], 3);
    assert.deepEqual(all.tokens, [0, 0, 0]);
  });
});

describe("cpu draws the reference's tokens", () => {
  const rng = seeded(99);
  const pick = <T>(...options: T[]): T => options[Math.floor(rng() * options.length)]!;
  const cases = Array.from({ length: 120 }, (_, i) => {
    const vocabulary = pick(1, 2, 3, 16, 33, 500, 3001);
    // Steps of 1/16, so that many logits tie.
    const logits = numbers(rng, vocabulary).map((x) => Math.round(x * 96) / 16);
    const o: SamplingOptions = {
      temperature: pick(0, 0.3, 0.7, 1, 2),
      topK: pick(0, 1, 2, 40, 5000),
      topP: pick(1, 0.95, 0.5, 0.1),
      minP: pick(0, 0, 0.05, 0.5),
      repetitionPenalty: pick(1, 1.1, 0.8),
      seed: i * 1_000_003,
    };
    const seen = Array.from({ length: pick(0, 3, 20) }, () => Math.floor(rng() * vocabulary));
    return { logits, o, seen, expected: draw("reference", logits, o, seen, 8) };
  });
  for (const name of supportedIsas()) {
    test(name, () => {
      chooseIsa(name);
      for (const { logits, o, seen, expected } of cases) {
        const got = draw("cpu", logits, o, seen, 8);
        assert.deepEqual(got.tokens, expected.tokens, JSON.stringify(o));
        for (const [i, logprob] of got.logprobs.entries()) {
          const want = expected.logprobs[i]!;
          assert.ok(Math.abs(logprob - want) < 2e-6 + 1e-6 * Math.abs(want), `logprob ${logprob}, expected ${want}`);
        }
      }
    });
  }
});

describe("sample: bad arguments", () => {
  const bench = new Bench("cpu");
  after(() => bench.free());
  const logits = bench.filled(0, [2, 4]);
  const go = (o: Partial<SamplingOptions>, row = 0, at = logits, more: Partial<SampleRow> = {}) =>
    sample(at, [{ row, options: { ...plain, ...o }, stream: 0, ...more }]);
  const seen = (...ids: number[]) => go({}, 0, logits, { seen: Int32Array.from(ids) });
  const wrong: [RegExp, () => void][] = [
    [/\[sample\] row: expected a row of logits \[2,4\], got 2/, () => go({}, 2)],
    [/row: .* got -1/, () => go({}, -1)],
    [/logits: expected shape \[rows,V\] with V >= 1, got \[4\]/, () => go({}, 0, bench.filled(0, [4]))],
    [/logits: expected shape .* got \[1,0\]/, () => go({}, 0, bench.filled(0, [1, 0]))],
    [/logits: expected dtype float32, got bfloat16/, () => go({}, 0, bench.filled(0, [1, 4], "bfloat16"))],
    [/temperature: expected a finite number >= 0, got -1/, () => go({ temperature: -1 })],
    [/top_k: expected 0 \(all\) or more, got -1/, () => go({ topK: -1 })],
    [/top_p: expected 0 < top_p <= 1, got 0/, () => go({ topP: 0 })],
    [/top_p: .* got 1.5/, () => go({ topP: 1.5 })],
    [/min_p: expected 0 <= min_p <= 1, got 2/, () => go({ minP: 2 })],
    [/repetition_penalty: expected a finite number > 0, got 0/, () => go({ repetitionPenalty: 0 })],
    [/seen: expected values in \[0,4\), got 4 at index 1/, () => seen(0, 4)],
    [/seen: .* got -1 at index 0/, () => seen(-1)],
    [/answer: expected 0..0, got 1/, () => go({}, 0, logits, { answerCount: 1 })],
    [/frequency_penalty, presence_penalty: expected finite/, () => go({}, 0, logits, { presencePenalty: Infinity })],
  ];
  for (const [message, call] of wrong) {
    test(`${message}`, () => assert.throws(call, { code: "INVALID_ARGUMENT", message }));
  }
});

everywhere("a row without a distribution has no token; the others have theirs", (device) => {
  const bench = new Bench(device);
  const bad = [Number.NaN, Infinity, -Infinity];
  const logits = bench.of(Float32Array.from([...bad.flatMap((x) => [x === -Infinity ? x : 0, x]), 0, 1]), [4, 2]);
  for (const temperature of [0, 1]) {
    const rows = [0, 1, 2, 3].map((row) => ({ row, options: { ...plain, temperature, topK: 1 }, stream: 0 }));
    assert.deepEqual(
      sample(logits, rows).map(({ token }) => token),
      [noToken, noToken, noToken, 1],
    );
    const [none] = sample(logits, [{ ...rows[3]!, allowed: new Int32Array(1) }]);
    assert.equal(none?.token, noToken);
  }
  bench.free();
});

everywhere("a row's token is the one that it has alone, whatever is asked of the others", (device) => {
  const bench = new Bench(device);
  const rng = seeded(21);
  const vocabulary = 700;
  const logits = bench.of(
    numbers(rng, 16 * vocabulary).map((v) => 4 * v),
    [16, vocabulary],
  );
  const rows = Array.from({ length: 40 }, (_, i): SampleRow => {
    const options = {
      ...plain,
      temperature: [0, 0.7, 1][i % 3]!,
      topK: [0, 40][i % 2]!,
      topP: [1, 0.9][(i >> 1) % 2]!,
      seed: i,
    };
    const seen = Int32Array.from({ length: 12 }, () => Math.floor(rng() * vocabulary));
    const penalties = i % 5 === 0 ? { frequencyPenalty: 0.5, presencePenalty: 0.25, seen, answerCount: 5 } : {};
    const allowed = i % 7 === 0 ? Int32Array.from({ length: 22 }, () => Math.floor(rng() * 2 ** 32) | 0) : null;
    return { row: i % 16, options, stream: i, ...penalties, allowed, wantLogprob: i % 4 !== 0 };
  });
  const together = sample(logits, rows);
  assert.deepEqual(
    together,
    rows.map((row) => sample(logits, [row])[0]),
  );
  for (const [i, { token }] of together.entries()) {
    const word = rows[i]!.allowed?.[token >> 5] ?? -1;
    assert.equal((word >> (token & 31)) & 1, 1);
  }
  bench.free();
});

everywhere("logits next to the largest, whose exponentials round to 1 and beside it", (device) => {
  const top = 8;
  const logits = Float32Array.from({ length: 400 }, (_, i) => top - i * 2 ** -21);
  for (const topK of [0, 3]) {
    const { tokens } = draw(device, logits, { ...plain, topK }, [], 200);
    for (const token of tokens) assert.ok(token >= 0 && token < (topK || 400), `${token}`);
  }
});

test("cpu draws the reference's tokens from a large vocabulary", () => {
  const logits = numbers(seeded(31), 40_000).map((v) => Math.fround(9 * v));
  for (const o of [
    {},
    { topK: 50 },
    { topP: 0.9 },
    { minP: 0.01 },
    { temperature: 0.3 },
    { topK: 30_000, topP: 0.99 },
  ]) {
    const asked = { ...plain, ...o };
    assert.deepEqual(draw("cpu", logits, asked, [], 6).tokens, draw("reference", logits, asked, [], 6).tokens);
  }
});

everywhere("a log-probability that nobody wants changes no token", (device) => {
  const bench = new Bench(device);
  const logits = bench.of(
    numbers(seeded(5), 700).map((v) => 6 * v),
    [1, 700],
  );
  for (const o of [{ ...plain, temperature: 0 }, plain, { ...plain, topK: 5 }]) {
    for (let stream = 0; stream < 20; stream++) {
      const row = { row: 0, options: o, stream };
      const [without, wanted] = sample(logits, [{ ...row, wantLogprob: false }, row]);
      assert.equal(without?.token, wanted?.token);
      assert.ok(Number.isNaN(without?.logprob));
    }
  }
  bench.free();
});
