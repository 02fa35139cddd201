// How a row is measured and judged: the order of the runs, medians, ratios, goals whose peer is missing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { runJson, secondsToFirstByte } from "../bench/harness/child.ts";
import { alternate, median } from "../bench/harness/compare.ts";
import { Peers } from "../bench/harness/peers.ts";
import { compare, judge } from "../bench/harness/row.ts";
import { peerFigure } from "../bench/harness/setting.ts";

const series = (name: string, ...values: number[]) => ({ name, values, median: median(values) });

test("subjects take turns, and the median is the middle one or the mean of the two", async () => {
  const order: string[] = [];
  const subject = (name: string, values: number[]) => ({
    name,
    measure: async () => {
      order.push(name);
      return values.shift() ?? Number.NaN;
    },
  });
  const [a, b] = await alternate([subject("a", [9, 1, 2]), subject("b", [4, 6, 5])], 3);
  assert.equal(order.join(""), "ababab");
  assert.deepEqual([a?.median, b?.median, a?.values], [2, 5, [9, 1, 2]]);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.ok(Number.isNaN(median([])));
});

test("a ratio above 1 is in our favour, whichever way the unit goes", () => {
  const goals = [{ text: "goal", beside: "peer", needed: 2 }];
  const rates = judge({ what: "", unit: "tokens/s", goals }, [series("Nibble", 30), series("peer", 10)]);
  assert.deepEqual(rates.goals, [{ text: "goal", needed: 2, ratio: 3, met: true }]);
  const times = judge({ what: "", unit: "s", lessIsBetter: true, goals }, [series("Nibble", 30), series("peer", 10)]);
  assert.deepEqual(times.goals[0]?.met, false);
  assert.equal(times.goals[0]?.ratio, 1 / 3);
});

test("without its peer a goal is neither met nor missed, and a note says how to install it", async () => {
  const peers = new Peers("/no/python", null);
  const notes: string[] = [];
  const missing = [
    ...peerFigure("PEFT", peers.pythonScript("PEFT", ["peft"], "train_step.py", []), "x", { notes }),
    ...peerFigure("node-llama-cpp", peers.nodeLlamaScript("llama_node.mjs", []), "x", { notes }),
  ];
  const own = { name: "Nibble", measure: async () => 1 };
  const goals = [{ text: "goal", beside: "PEFT", needed: 1 }];
  const result = await compare({ what: "", unit: "s", subjects: [own, ...missing], goals, notes }, 1);
  assert.deepEqual([result.series.length, result.goals], [1, []]);
  assert.match(notes.join("\n"), /PEFT is not installed \(peft\).*pip install peft.*\n.*node-llama-cpp/s);
});

const script = (text: string) => ({ file: process.execPath, args: ["-e", text] });

test("the last line of a script is its figures; one that fails says why", async () => {
  assert.deepEqual(await runJson(script('console.log("loading"); console.log(JSON.stringify({ x: 1 }))')), { x: 1 });
  await assert.rejects(runJson(script('console.log("no figures")')), /expected a line of JSON, got "no figures"/);
  await assert.rejects(runJson(script('console.error("no memory"); process.exit(3)')), /ended with 3\nno memory/);
  await assert.rejects(secondsToFirstByte(script("")), /printed nothing/);
  assert.ok((await secondsToFirstByte(script("console.log(1)"))) > 0);
});
