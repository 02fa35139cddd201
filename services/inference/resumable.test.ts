import assert from "node:assert/strict";
import { test } from "node:test";
import { until } from "../../test/support/services.ts";
import type { NumberedEvent } from "./answers.ts";
import { Resumable } from "./resumable.ts";

const never = new AbortController().signal;
const kept = (keptMs: number, eventsMax = 100) => new Resumable({ keptMs, eventsMax, answersMax: 2 });

/** An answer that gives an event whenever it is told to. */
function source() {
  let gate = Promise.withResolvers<void>();
  let isAborted = false;
  let sequence = 0;
  const event = (): NumberedEvent => ({
    index: 0,
    sequence: ++sequence,
    event: { kind: "token", token: { id: sequence, text: "", logprob: 0, top: [] } },
  });
  let left = 0;
  let ended = false;
  async function* start(signal: AbortSignal): AsyncGenerator<NumberedEvent> {
    signal.addEventListener("abort", () => {
      isAborted = true;
      gate.resolve();
    });
    for (;;) {
      while (left > 0) {
        left--;
        yield event();
      }
      if (ended || isAborted) return;
      await gate.promise;
      gate = Promise.withResolvers();
    }
  }
  const wake = () => gate.resolve();
  return {
    start,
    give: (count: number) => {
      left += count;
      wake();
    },
    end: () => {
      ended = true;
      wake();
    },
    /** Events that were taken. */
    get taken() {
      return sequence;
    },
    get isAborted() {
      return isAborted;
    },
  };
}

async function sequences(events: AsyncIterable<NumberedEvent>, count = Number.POSITIVE_INFINITY): Promise<number[]> {
  const seen: number[] = [];
  if (count === 0) return seen;
  for await (const { sequence } of events) {
    seen.push(sequence);
    if (seen.length === count) break;
  }
  return seen;
}

test("a second reader goes on where the first one broke off, and gets what came in between", async () => {
  const answers = kept(60_000);
  const { start, give, end } = source();
  give(3);
  assert.deepEqual(await sequences(answers.begin("a", start, never), 2), [1, 2]);
  give(2);
  end();
  assert.deepEqual(await sequences(answers.resume("a", 2, never)), [3, 4, 5]);
  assert.deepEqual(await sequences(answers.resume("a", 0, never)), [1, 2, 3, 4, 5]);
  assert.throws(() => answers.resume("a", 6, never), { code: "OUT_OF_RANGE" });
  assert.throws(() => answers.resume("b", 0, never), { code: "NOT_FOUND" });
  assert.throws(() => answers.begin("a", start, never), { code: "ALREADY_EXISTS" });
  answers.close();
});

test("an answer that nobody reads ends after its time", async () => {
  const answers = kept(20);
  const work = source();
  work.give(1);
  assert.deepEqual(await sequences(answers.begin("a", work.start, never), 1), [1]);
  // The timer does not keep a process alive, hence something that does.
  await until(() => work.isAborted);
  assert.throws(() => answers.resume("a", 0, never), { code: "NOT_FOUND" });
});

test("a later reader takes over", async () => {
  const answers = kept(60_000);
  const { start, give, end } = source();
  give(1);
  const first = answers.begin("a", start, never);
  assert.equal((await first.next()).value.sequence, 1);
  const waiting = first.next();
  const second = answers.resume("a", 1, never);
  const news = second.next();
  await assert.rejects(waiting, { code: "ABORTED" });
  give(1);
  assert.equal((await news).value.sequence, 2);
  end();
  assert.equal((await second.next()).done, true);
  answers.close();
});

test("only the last events are kept, and only so many answers", async () => {
  const answers = kept(60_000, 3);
  const { start, give, end } = source();
  give(10);
  end();
  const reader = answers.begin("a", start, never);
  await new Promise((resolve) => setImmediate(resolve));
  await assert.rejects(sequences(reader), { code: "OUT_OF_RANGE" });
  assert.throws(() => answers.resume("a", 6, never), { code: "OUT_OF_RANGE", message: /7 to 10, got 6/ });
  assert.deepEqual(await sequences(answers.resume("a", 7, never)), [8, 9, 10]);
  // The first was read to its end.
  answers.begin("b", source().start, never);
  answers.begin("c", source().start, never);
  assert.throws(() => answers.begin("d", source().start, never), { code: "RESOURCE_EXHAUSTED" });
  answers.close();
});

test("a reader who is slow holds the answer back and loses nothing of it", async () => {
  const answers = kept(60_000, 3);
  const work = source();
  const reader = answers.begin("a", work.start, never);
  const first = reader.next();
  work.give(20);
  assert.equal((await first).value.sequence, 1);
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(work.taken, 3);
  work.end();
  const rest = await sequences(reader);
  assert.deepEqual(
    rest,
    Array.from({ length: 19 }, (_, i) => i + 2),
  );
  answers.close();
});

test("one that is cancelled ends at once, also while its reader holds it back, and its name is free", async () => {
  const answers = kept(60_000, 1);
  const work = source();
  const reader = answers.begin("a", work.start, never);
  const first = reader.next();
  work.give(5);
  await first;
  answers.cancel("a");
  assert.ok(work.isAborted);
  assert.throws(() => answers.cancel("a"), { code: "NOT_FOUND" });
  const { start, end } = source();
  end();
  assert.deepEqual(await sequences(answers.begin("a", start, never)), []);
  const gone = AbortSignal.abort(new Error("gone"));
  assert.throws(() => answers.begin("b", start, gone), /gone/);
});

test("where all places are taken, an answer that was read to its end makes room", async () => {
  const answers = kept(60_000);
  for (const id of ["a", "b", "c", "d"]) {
    const { start, give, end } = source();
    give(2);
    end();
    assert.deepEqual(await sequences(answers.begin(id, start, never)), [1, 2]);
  }
  assert.throws(() => answers.resume("a", 2, never), { code: "NOT_FOUND" });
  assert.deepEqual(await sequences(answers.resume("d", 1, never)), [2]);
  answers.close();
});

test("a refusal is told, and the name is free again", async () => {
  const answers = kept(60_000);
  // biome-ignore lint/correctness/useYield: it is refused before its first event.
  async function* refused(): AsyncGenerator<NumberedEvent> {
    throw new RangeError("no");
  }
  await assert.rejects(sequences(answers.begin("a", refused, never)), /no/);
  const { start, end } = source();
  end();
  assert.deepEqual(await sequences(answers.begin("a", start, never)), []);
});
