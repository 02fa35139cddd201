import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StopMatcher } from "./stop-matcher.ts";

function run(stops: string[], pieces: string[]): { text: string; isStopped: boolean } {
  const matcher = new StopMatcher(stops);
  let text = "";
  for (const piece of pieces) {
    text += matcher.push(piece);
    if (matcher.isStopped) return { text, isStopped: true };
  }
  return { text: text + matcher.finish(), isStopped: false };
}

test("a stop text that is spread over pieces is found, and nothing of it is given out", () => {
  assert.deepEqual(run(["\n\nUser:"], ["Hi", "\n", "\nUs", "er: x"]), { text: "Hi", isStopped: true });
  assert.deepEqual(run(["ab"], ["a", "a", "b"]), { text: "a", isStopped: true });
  assert.deepEqual(run(["abc", "b"], ["ab"]), { text: "a", isStopped: true });
});

test("text that only began like a stop text is given out in the end", () => {
  assert.deepEqual(run(["END"], ["the E", "N"]), { text: "the EN", isStopped: false });
  const matcher = new StopMatcher(["END"]);
  assert.equal(matcher.push("xEN"), "x");
  assert.equal(matcher.push("x"), "ENx");
});

test("pieces give what the whole text gives", () => {
  const letters = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 30 });
  const stop = fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 8 }), fc.array(stop, { maxLength: 3 }), (pieces, stops) => {
      const whole = pieces.join("");
      const places = stops.map((s) => whole.indexOf(s)).filter((at) => at >= 0);
      const expected = places.length > 0 ? whole.slice(0, Math.min(...places)) : whole;
      const got = run(stops, pieces);
      // With stops that overlap, the one that is complete first ends the text.
      if (places.length > 0) assert.ok(got.isStopped && whole.startsWith(got.text));
      if (stops.length <= 1 || places.length === 0) assert.equal(got.text, expected);
      for (const s of stops) assert.ok(!got.text.includes(s));
    }),
  );
});
